"""The main job: a small GPT trained on text by Celo2, AdamW and Muon side by side. Needs PyTorch."""
