"""What is to be made: sheets and scales read and checked, and every artefact's spec, id and place; nothing here imports torch."""
