"""Saliport: a network's prediction and its saliency map, compiled into one artifact."""
