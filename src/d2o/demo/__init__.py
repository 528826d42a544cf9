"""The whole story on real digits, in minutes: pre-train, fine-tune, compare, and show it on one page."""
