"""Whether an answer is right: one grader for evaluation and training.

It imports neither torch nor lm-eval. `boxes` finds an answer in a response, `grader` compares it
with the reference: by rules of our own where they can decide, else by math-verify, which `verifier`
runs in a process with a limit.
"""
