"""Reinforcement learning as task families: PPO on environments of gymnax."""
