#!/usr/bin/env bash
# Sets up, builds, and serves the demo model with the server's page, which answers about a video dropped on it. What is done
# already is not done again. Ctrl-C ends it.
#   scripts/serve_demo.sh [--check] [flags of purekv serve]
#     --check   at a free port; gets the page, asks about one video of the repository, prints the answer and ends
# PUREKV names a program that is built already, in place of building one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=models/demo
video=$model/eval/short-03.mp4

for file in $model/config.json $model/model.safetensors $video; do
  if [[ ! -f $file ]]; then
    echo "serve_demo.sh: $file is missing; it comes with the repository" >&2
    exit 1
  fi
done

check=false
flags=()
for argument in "$@"; do
  if [[ $argument == --check ]]; then check=true; else flags+=("$argument"); fi
done
$check && flags+=(--port 0)

purekv=${PUREKV:-}
if [[ -z $purekv ]]; then
  scripts/setup.sh
  scripts/build.sh --target purekv_cli
  purekv=build/release/bin/purekv
fi
unset PUREKV

exec {said}< <(exec "$purekv" serve -m "$model" "${flags[@]}")
server=$!
# A terminal's Ctrl-C reaches the server itself, and a second signal would end it at once.
trap : INT
trap 'kill -TERM "$server"' TERM
end() {
  while kill -0 "$server" 2>/dev/null; do wait "$server" || true; done
  wait "$server"
}

line=
IFS= read -r line <&"$said" || true
url=${line#listening on }
if [[ $url == "$line" ]]; then  # it has said why not
  end || exit $?
  exit 1
fi

if ! $check; then
  printf '\n  Open %s in a browser and drop a video on it, for example %s\n  (Ctrl-C ends the server)\n\n' "$url" "$PWD/$video"
  end
  exit
fi

trap 'kill -TERM "$server" 2>/dev/null || true' EXIT
address=${url#http://}

# request METHOD PATH [BODY]: head and body of the answer. curl is not among what building needs.
request() {
  local socket
  exec {socket}<>"/dev/tcp/${address%:*}/${address##*:}"
  printf '%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' \
    "$1" "$2" "${#3}" "$3" >&"$socket"
  cat <&"$socket"
  exec {socket}>&-
}

for ((tries = 0; ; ++tries)); do
  health=$(request GET /health "")
  [[ $health == "HTTP/1.1 200 "* ]] && break
  if ((tries == 600)); then
    echo "serve_demo.sh: the model was not loaded in a minute" >&2
    exit 1
  fi
  sleep 0.1
done

page=$(request GET / "")
if [[ $page != "HTTP/1.1 200 "*"Content-Type: text/html"*"<title>PureKV</title>"* ]]; then
  echo "serve_demo.sh: $url/ is not the page: ${page:0:200}" >&2
  exit 1
fi
question="Describe the video."
answer=$(request POST /v1/chat/completions '{"model": "demo", "max_tokens": 96, "purekv": {"policy": "purekv", "budget": 0.2}, "messages": [{"role": "user",
  "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,'"$(base64 -w0 "$video")"'"}}, {"type": "text", "text": "'"$question"'"}]}]}')
text=$(sed -n 's/.*"role":"assistant","content":"\([^"]*\)".*/\1/p' <<<"$answer")
if [[ $answer != "HTTP/1.1 200 "* || -z $text ]]; then
  echo "serve_demo.sh: no answer: ${answer:0:600}" >&2
  exit 1
fi
printf '%s\n  question  %s\n  answer    %s\n' "$video" "$question" "$text"
