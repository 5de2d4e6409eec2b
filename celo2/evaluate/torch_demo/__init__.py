"""The demo: a small GPT trained on text with Celo2, AdamW and Muon, side by side. Needs PyTorch."""
