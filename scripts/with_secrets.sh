#!/bin/sh
# Runs a command with each file of /run/secrets as a variable of its name in capitals: worker_api_key is WORKER_API_KEY.
# So that `docker inspect` shows none of them. For Compose; Kubernetes sets the variables itself.
set -eu
for file in /run/secrets/*; do
    [ -f "$file" ] || continue
    name=$(basename "$file" | tr '[:lower:]' '[:upper:]')
    export "$name=$(cat "$file")"
done
exec "$@"
