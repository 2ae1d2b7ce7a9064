#!/usr/bin/env bash
# Runs Ray on a spot machine until the cloud calls it back:  spot-worker.sh aws|gcp WORDS-OF-RAY-START...
#
# Ray does not ask the cloud. `ray start --block` answers SIGTERM by draining its node, with preemption as the reason:
# nothing new is placed there, and Train goes on elsewhere without counting a failure. So the notice becomes a SIGTERM.
set -euo pipefail

cloud=$1
shift
metadata=${COVSEG_METADATA:-http://169.254.169.254}

fetch() {
  curl --silent --fail --noproxy '*' --max-time 2 "$@"
}

called_back() {
  local token
  case $cloud in
    aws) # 404 until two minutes before the end
      token=$(fetch -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") || return 1
      fetch -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action"
      ;;
    gcp) # FALSE until 30 seconds before the end
      [ "$(fetch -H 'Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/preempted")" = TRUE ]
      ;;
  esac
}

case $cloud in
  aws | gcp) ;;
  *)
    echo "spot-worker.sh: $cloud: no such cloud; give aws or gcp" >&2
    exit 2
    ;;
esac
ray start --block "$@" &
ray=$!
while kill -0 "$ray" 2>/dev/null; do
  if called_back; then
    echo "$(date -Is) called back: draining this node"
    kill -TERM "$ray"
    break
  fi
  sleep 5
done
wait "$ray"
