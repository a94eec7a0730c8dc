"""Fine-tune a BERT on labelled notes."""
