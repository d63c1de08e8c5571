"""`mal`: masks of objects of which only the boxes are known, learned from such boxes."""
