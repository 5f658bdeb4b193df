"""Reinforcement learning of the policy: rollouts, rewards, objectives, one step, the loop, its report."""
