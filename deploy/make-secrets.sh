#!/bin/sh
# Draw the passwords and tokens that deploy/compose.yaml reads, each into a file of its own.
# What is there already stays as it is.
set -eu
umask 077
folder="$(dirname "$0")/secrets"
mkdir -p "$folder"
for name in database_password dashboard_token mlflow_key mlflow_password ray_token; do
    if [ ! -s "$folder/$name" ]; then
        head -c 32 /dev/urandom | od -A n -t x1 | tr -d ' \n' >"$folder/$name"
    fi
done
echo "secrets in $folder; the token for hpo submit: export RAY_AUTH_TOKEN=\$(cat $folder/ray_token)"
