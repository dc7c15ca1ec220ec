"""Training and inference on this machine. `backend` imports nothing heavy; the rest needs torch."""
