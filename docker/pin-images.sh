#!/bin/sh
# Pins every image by its content: adds to each exact tag in compose.yaml and Dockerfile the digest that the registry
# gives for it now, or renews the one that stands there. `git diff docker` shows what came.
set -eu
cd "$(dirname "$0")"
tags=$(sed -n -E -e 's/^    image: ([a-z0-9./-]+:[^@ ]+).*/\1/p' -e 's/^ARG PYTHON_IMAGE=([^@]+).*/\1/p' compose.yaml Dockerfile)
for tag in $tags; do
    digest=$(docker buildx imagetools inspect "$tag" --format '{{.Manifest.Digest}}')
    case "$digest" in
        sha256:*) ;;
        *)
            echo "$tag: the registry gives no digest, but '$digest'." >&2
            exit 1
            ;;
    esac
    sed -i -E "s|([ =])$tag(@sha256:[0-9a-f]{64})?$|\1$tag@$digest|" compose.yaml Dockerfile
    echo "$tag@$digest"
done
