#!/bin/sh
# Writes docker/.env from .env.example, a random value for each secret that stands there empty. Never overwrites.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "docker/.env exists already: it is left as it is." >&2
    exit 1
fi

# Docker refuses a network that overlaps another one: the first of these that no route of this machine touches.
subnet=
for second in 28 29 30 31 27 26 25 24; do
    if ! ip -4 route 2>/dev/null | grep -q "^172\.$second\."; then
        subnet=172.$second.90.0/24
        break
    fi
done

umask 077
while IFS= read -r line; do
    case "$line" in
        *_PASSWORD= | *_PASS= | *_SECRET= | *_API_KEY=)
            printf '%s%s\n' "$line" "$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')"
            ;;
        "#FRONT_SUBNET=$subnet") printf '%s\n' "$line" ;;
        "#FRONT_SUBNET="*) printf '%s\n' "${subnet:+FRONT_SUBNET=$subnet}" ;;
        *) printf '%s\n' "$line" ;;
    esac
done <.env.example >.env

echo "Wrote docker/.env. Label Studio's login: $(sed -n 's/^LABEL_STUDIO_USERNAME=//p' .env), password: see LABEL_STUDIO_PASSWORD there."
if docker volume inspect ram-backend_postgres >/dev/null 2>&1; then
    echo "The volume ram-backend_postgres is of an earlier docker/.env, and its databases keep the passwords and the token" >&2
    echo "that they were made with: put the old docker/.env back, or see \"Old volumes, new secrets\" in docs/docker.md." >&2
fi
