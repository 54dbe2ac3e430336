"""Builds the small trained OPT model that `unshard` bundles for demonstrations and tests.

Run it from the repository root: `python -m tools.demo_model --out src/unshard/demo_model`.
"""
