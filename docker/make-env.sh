#!/bin/sh
# Writes docker/.env from .env.example, a random value for each secret that stands there empty. Never overwrites.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "docker/.env exists already: it is left as it is." >&2
    exit 1
fi
umask 077
while IFS= read -r line; do
    case "$line" in
        *_PASSWORD= | *_API_KEY=)
            printf '%s%s\n' "$line" "$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')"
            ;;
        *) printf '%s\n' "$line" ;;
    esac
done <.env.example >.env
echo "Wrote docker/.env. Label Studio's login: $(sed -n 's/^LABEL_STUDIO_USERNAME=//p' .env), password: see LABEL_STUDIO_PASSWORD there."
