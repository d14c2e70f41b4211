"""The central learner."""
