-- POST after POST, each with the next of the bodies; at the end the figures as one line of JSON.
-- wrk ... -s post.lua URL -- CONTENT-TYPE ACCEPT BODY-FILE...

local requests, sent = {}, 0

function init(args)
  local headers = {["Content-Type"] = args[1], ["Accept"] = args[2]}
  for i = 3, #args do
    local file = assert(io.open(args[i], "rb"))
    requests[i - 2] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  sent = sent % #requests + 1
  return requests[sent]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout + errors.status
  ))
end
