"""The config under test: HTTP and stdio, several endpoints, and faults of every kind that a metric tells."""


def config(ziggurat, demos, server, closed, flaw=""):
    replicas = ", ".join(f'{{ url: "http://{demo}/mcp" }}' for demo in demos)
    return f"""
listen: 127.0.0.1:0
admin: 127.0.0.1:0
server: {{ write_stall: 1s }}
routes:
  - match: {{ path: /tools }}
    upstream: tools
    rate_limit: {{ per: client, rate: 100000/s }}
    intercept: {{ rules: [{{ name: seen, when: {{ tool: [echo] }}, pause: {{ limit: 20ms, then: resume }} }}] }}
  - {{ match: {{ path: /local }}, upstream: local }}
  - {{ match: {{ path: /hasty }}, upstream: local, deadline: 200ms }}
  - {{ match: {{ path: /crashy }}, upstream: crashy }}
  - {{ match: {{ path: /dead }}, upstream: dead }}
  - {{ match: {{ path: /sick }}, upstream: sick, session: off, retry: {{ budget: 5%, backoff: {{ base: 1ms }} }} }}
  - {{ match: {{ path: /any }}, upstream: any, session: off }}
  - {{ match: {{ path: /lost }}, upstream: lost }}
  - {{ match: {{ path: /found }}, upstream: found }}
  - {{ match: {{ path: /narrow }}, protocol: http, upstream: narrow }}
  - {{ match: {{ path: /full }}, protocol: http, upstream: plain, concurrency: 1 }}
  - {{ match: {{ path: /limited }}, protocol: http, upstream: plain, rate_limit: {{ per: method, rate: 1/s, keys: 1 }} }}
  - {{ match: {{ path: /api }}, protocol: http, upstream: plain }}
{flaw}
upstreams:
  tools:
    health: {{ interval: 500ms }}
    endpoints: [{replicas}, {{ url: "http://127.0.0.1:{closed}/mcp" }}]
  local:
    tool_circuit: {{ consecutive: 3, open: 1s, tool_errors: true }}
    endpoints: [{{ command: ["{ziggurat}", demo], idle: 1s, stop: {{ stdin: 200ms, term: 200ms }} }}]
  crashy:
    circuit: off
    endpoints: [{{ command: ["{ziggurat}", demo], idle: 1s, snapshot: on }}]
  dead: {{ endpoints: [{{ url: "http://127.0.0.1:{closed}/mcp" }}] }}
  sick:
    circuit: off
    health: {{ probe: http, interval: 500ms }}
    endpoints: [{{ url: "{server}/sick" }}]
  any: {{ endpoints: [{{ url: "{server}/any" }}] }}
  lost: {{ endpoints: [{{ url: "{server}/lost" }}] }}
  found: {{ endpoints: [{{ url: "http://localhost:{closed}/mcp", each_address: 1s }}, {{ url: "http://nowhere.invalid/mcp", each_address: 1s }}] }}
  narrow: {{ concurrency: 1, endpoints: [{{ url: "{server}" }}] }}
  plain: {{ circuit: off, endpoints: [{{ url: "{server}" }}] }}
"""
