"""The two scripts that Redis runs: each is atomic, and one round trip. Their arithmetic is that of `checks`
and `ledger`, operation by operation: doubles give the same results there and here (a test compares)."""

from __future__ import annotations

from typing import Final

from adaptive_lora.serving.quotas.checks import EPOCH_S, SLACK_US

TAKE: Final = f"""
local time = redis.call('TIME')
local now = (time[1] - {EPOCH_S}) * 1000000 + time[2]
local deadline = tonumber(ARGV[1])
if deadline > 0 and now > deadline then return {{'late', string.format('%.17g', now)}} end
local out = {{'taken', string.format('%.17g', now)}}
local readings = {{}}
for i, key in ipairs(KEYS) do
    local kind, a, b = ARGV[4 * i - 2], tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
    local reading
    if kind == 'rate' then
        reading = tonumber(redis.call('GET', key) or 0)
        local arrival = math.min(math.max(reading, now), now + 2 * b)
        if arrival + a - now - b > {SLACK_US} then out[1] = 'denied' end
    elseif kind == 'lease' then
        redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
        reading = redis.call('ZCARD', key)
        if reading >= a then out[1] = 'denied' end
    else
        reading = tonumber(redis.call('GET', key) or 0)
        if reading + a > b then out[1] = 'denied' end
    end
    readings[i] = reading
    out[i + 2] = string.format('%.17g', reading)
end
if out[1] == 'denied' then return out end
for i, key in ipairs(KEYS) do
    local kind, a, b, c = ARGV[4 * i - 2], tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i]), ARGV[4 * i + 1]
    if kind == 'rate' then
        if a > 0 then
            local arrival = math.min(math.max(readings[i], now), now + 2 * b) + a
            local ttl = math.ceil((arrival - now) / 1000) + 1000
            redis.call('SET', key, string.format('%.17g', arrival), 'PX', string.format('%.0f', ttl))
        end
    elseif kind == 'lease' then
        redis.call('ZADD', key, string.format('%.17g', now + b), c)
        redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(b / 1000)))
    elseif a > 0 then
        redis.call('INCRBY', key, string.format('%.0f', a))
        redis.call('PEXPIRE', key, c)
    end
end
return out
"""
"""KEYS: one per check. ARGV: until when it may run (the server's time; 0: for ever), then four per check:
rate, cost, tolerance, -; lease, limit, lifetime, lease; budget, n, limit, milliseconds to keep it."""

SETTLE: Final = f"""
if not redis.call('SET', KEYS[1], 1, 'NX', 'PX', 600000) then return 0 end
local time = redis.call('TIME')
local now = (time[1] - {EPOCH_S}) * 1000000 + time[2]
for i = 2, #KEYS do
    local key, kind, a, b = KEYS[i], ARGV[3 * i - 5], ARGV[3 * i - 4], ARGV[3 * i - 3]
    if kind == 'rate' then
        local back = tonumber(a)
        local arrival = tonumber(redis.call('GET', key) or now)
        if back < 0 then arrival = math.max(arrival, now) end
        arrival = arrival - back
        if arrival > now then
            local ttl = math.ceil((arrival - now) / 1000) + 1000
            redis.call('SET', key, string.format('%.17g', arrival), 'PX', string.format('%.0f', ttl))
        else
            redis.call('DEL', key)
        end
    elseif kind == 'lease' then
        redis.call('ZREM', key, a)
    else
        if redis.call('INCRBY', key, a) < 0 then redis.call('SET', key, 0) end
        redis.call('PEXPIRE', key, b)
    end
end
return 1
"""
"""KEYS: the batch's own, by which a second delivery is recognised; then one per entry. ARGV: three per entry:
rate, microseconds to give back, -; lease, lease, -; budget, change, milliseconds to keep it."""
