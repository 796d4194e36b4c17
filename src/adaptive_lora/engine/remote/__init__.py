"""An engine whose tokens come from a pool of `vllm serve` workers, over HTTP. Needs neither vllm nor torch.

engine     RemoteEngine: the contract of `engine/base.py`, kept by the pool
in_flight  one request: how far it is, how it is stopped, where it has failed
pool       which workers there are, what each should hold, and who may be asked now
worker     one worker: its client, its state
transport  HTTP to one worker, and what can go wrong
dialects   how to talk to it: with our plugin (`wire`), or a stock `vllm serve` (`stock`)
balance    pure policy: who answers which request
health     the breaker, and the canary that closes it
discovery  listed URLs, or the addresses behind one DNS name
"""
