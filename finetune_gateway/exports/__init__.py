"""What other tools serve a trained model from: folders with the model, commands and a README."""
