#!/usr/bin/env bash
# Ray's head node: starts Ray, deploys the Serve configuration that is named, stays as long as Ray
# does, and ends with it. Further words are options of `ray start`.
set -euo pipefail
config=${1:?"usage: head.sh SERVE.yaml [options of ray start]"}
shift

ray start --head --block "$@" &
ray=$!
# Ray ends its processes by itself when it is told to; Docker then has nothing to kill.
trap 'kill -TERM "$ray"; wait "$ray"; exit 0' TERM INT

until serve deploy "$config"; do
  kill -0 "$ray" || { echo "Ray ended before the application was deployed" >&2; exit 1; }
  sleep 2
done
wait "$ray"
