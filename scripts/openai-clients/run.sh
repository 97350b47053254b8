#!/bin/sh
# Serves a model and lets OpenAI's own clients for Python and Node ask it everything.
#
#     scripts/openai-clients/run.sh LATHE MODEL [PYTHON]
#
# LATHE: the program. MODEL: a folder or a .gguf file. PYTHON: one that has the packages openai and websockets [python3].
# The client for Node is used where NODE_PATH_OPENAI names a folder with node_modules/openai.
set -eu

lathe=$1 model=$2 python=${3:-python3}
here=$(cd "$(dirname "$0")" && pwd)
home=$(mktemp -d)
port=${API_PORT:-18439} key=sk-a-key-for-the-clients name=served
address=http://127.0.0.1:$port

API_KEY=$key "$lathe" --home "$home" api "model_name_or_path=$model" --port "$port" --model-name "$name" >"$home/ready" 2>"$home/log" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$home"' EXIT
for _ in $(seq 600); do
    [ -s "$home/ready" ] && break
    kill -0 $server 2>/dev/null || { cat "$home/log" >&2; exit 1; }
    sleep 0.1
done

failed=0
"$python" "$here/clients.py" "$address" "$key" "$name" || failed=1
if [ -n "${NODE_PATH_OPENAI:-}" ]; then
    # A module is found beside the file that asks for it.
    cp "$here/clients.mjs" "$NODE_PATH_OPENAI/clients.mjs"
    node "$NODE_PATH_OPENAI/clients.mjs" "$address" "$key" "$name" || failed=1
fi
exit $failed
