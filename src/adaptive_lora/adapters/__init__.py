"""Adapter folders: the manifest, the checks before anything is served, and the catalogue of what passed.

Needs neither torch nor vllm: the gateway verifies adapters that a remote worker will run.
"""
