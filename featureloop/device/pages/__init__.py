"""The pages that a clinician uses, served by the device on 127.0.0.1: review, live, what left."""
