"""The Hugging Face Hub: what is asked of it, what it is held to, and how it comes here.

Nothing here but the standard library is needed to plan with; the Hub's client only to download.
"""
