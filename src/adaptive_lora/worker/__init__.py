"""What `vllm serve` loads to become a worker of a fleet: our plugin for vLLM, in vLLM's own process.

    VLLM_PLUGINS=adaptive_lora_worker vllm serve MODEL --enable-lora --api-key KEY ...

plugin     vLLM's entry points: general (in every process) and endpoints (in the API server)
endpoints  HTTP below /adaptive-lora/v1/, over any Engine
access     every route demands the key
files      an adapter's id -> its verified folder, from the store or the local folder
resolver   the same for vLLM's own /v1 endpoints
"""
