"""Answers sampled from the policy, by vLLM."""
