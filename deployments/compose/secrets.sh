#!/usr/bin/env bash
# Writes .env beside compose.yaml with secrets of this machine's own, for its user alone to read.
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 077

# Not over what is there: the volumes know the passwords of before.
if [[ -e .env ]]; then
  echo ".env is there already: remove it, and the volumes with it, for new secrets" >&2
  exit 1
fi
for name in POSTGRES_PASSWORD REDIS_PASSWORD AWS_SECRET_ACCESS_KEY RAY_AUTH_TOKEN \
  PRERANK_TOKEN GRAFANA_PASSWORD; do
  # Hexadecimal: no comma for PRERANK_REDIS, and nothing that a URI must escape.
  echo "$name=$(openssl rand -hex 32)"
done >.env
echo "wrote .env: six secrets. Keep it out of backups that others read"
