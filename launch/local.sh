#!/usr/bin/env bash
# Several JAX processes on this machine, joined over 127.0.0.1 (CPU, gloo): the way of a pod, without one.
#
#   launch/local.sh N --config=rl [--config.key=value ...]
#
# Each process runs `python -m ar1_jax.main` with the arguments after N; process 0 prints to the console, the others
# to $AR1_JAX_LOGS/process-I.log (default: a folder under the temporary one). DEVICES=2 gives each process two CPU
# devices, PYTHON and PORT may be set. The first process that fails ends the others (SIGTERM, after GRACE=20 seconds
# SIGKILL, since they may hang in a collective that nobody joins any more), and its code is returned.
set -u -o pipefail
if [ $# -lt 2 ] || ! [ "$1" -ge 1 ] 2>/dev/null; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
processes=$1
shift
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
[ -x "$python" ] || python=python3
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
logs=${AR1_JAX_LOGS:-$(mktemp -d "${TMPDIR:-/tmp}/ar1-jax-local.XXXXXX")}
mkdir -p "$logs"

export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${DEVICES:-1}
export AR1_JAX_COORDINATOR=127.0.0.1:$port AR1_JAX_PROCESSES=$processes
pids=()
asked=0
stop() { # only the processes that were started here
  asked=1
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
}
trap stop TERM INT
for ((i = processes - 1; i > 0; i--)); do
  AR1_JAX_PROCESS=$i "$python" -m ar1_jax.main "$@" >"$logs/process-$i.log" 2>&1 &
  pids+=($!)
done
AR1_JAX_PROCESS=0 "$python" -m ar1_jax.main "$@" &
pids+=($!)

code=0
reaper=
left=$processes
while [ "$left" -gt 0 ]; do
  before=$asked
  wait -n
  result=$?
  if [ "$asked" -ne "$before" ] && [ -n "$(jobs -rp)" ]; then continue; fi # woken by a signal
  left=$((left - 1))
  if [ "$result" -ne 0 ] && [ "$code" -eq 0 ]; then
    code=$result
    stop
    (sleep "${GRACE:-20}" && kill -KILL "${pids[@]}") >/dev/null 2>&1 &
    reaper=$!
  fi
done
[ -z "$reaper" ] || kill "$reaper" 2>/dev/null
[ "$code" -eq 0 ] || echo "launch/local.sh: a process ended with $code; the others wrote to $logs" >&2
exit "$code"
