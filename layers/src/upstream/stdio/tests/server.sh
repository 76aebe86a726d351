# A small MCP server of both eras. Tools say what it does; ARMS stands for what a test adds. Files named in $DIR are its gates.
held=''
heard=''
say() { printf '%s\n' "$1"; }
answer() { say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$1}"; }
fail() { say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":$1,\"message\":\"no\"}}"; }
progress() { say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":$token,\"progress\":$1}}"; }
log() { say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"${2:-info}\",\"data\":\"$1\"}}"; }
changed() { say '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'; }
ask() { say "{\"jsonrpc\":\"2.0\",\"id\":\"ask-$1\",\"method\":\"roots/list\"}"; }
member() { rest=${line#*"\"$1\":"}; member=${rest%%[,\}]*}; }
await() { until [ -e "$DIR/$1" ]; do sleep 0.01; done; }
note() { echo "$1" >>"$DIR/$2"; }
note $$ starts
while IFS= read -r line; do
  member id; id=$member
  member progressToken; token=$member
  member mark; mark=$member
  case $line in
  #ARMS#
  *'"method":"initialize"'*) answer '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"sh","version":"1"}}' ;;
  *'"method":"server/discover"'*) answer '{"supportedVersions":["2026-07-28"],"capabilities":{},"serverInfo":{"name":"sh","version":"1"}}' ;;
  *'"method":"tools/list"'*) answer '{"tools":[]}' ;;
  *'"method":"subscriptions/listen"'*)
    listen=$id
    say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":$id}}}" ;;
  *'"method":"notifications/'*) heard="$heard$line,"; note "$line" heard ;;
  *'"name":"echo"'*) answer "{\"mark\":$mark}" ;;
  *'"name":"hold"'*) held="$held $id" ;;
  *'"name":"release"'*) for one in $held; do say "{\"jsonrpc\":\"2.0\",\"id\":$one,\"result\":{\"held\":true}}"; done; held=''; answer '{"released":true}' ;;
  *'"name":"heard"'*) answer "[${heard%,}]" ;;
  *'"name":"steps"'*) progress 1; progress 2; progress 3; answer '{"steps":3}' ;;
  *'"name":"log"'*) log said; answer '{}' ;;
  *'"name":"ask"'*) ask "$id"; held="$held $id" ;;
  *'"name":"change"'*) changed; answer '{}' ;;
  *'"name":"crash"'*) exit 7 ;;
  *'"name":"bye"'*) answer '{"bye":true}'; exit 0 ;;
  *'"result"'*) heard="$heard$line,"; note "$line" heard ;;
  *) case $line in *'"id":'*) fail -32601 ;; esac ;;
  esac
done
note $$ ends
