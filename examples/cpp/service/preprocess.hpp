// From pixels to what the network takes.
#pragma once

#include <vector>

#include "image.hpp"

/// Resizes to height x width by a triangle filter, as wide as a source pixel or, when shrinking, as a target pixel.
///
/// Along each axis, with s = source size / target size, target pixel o weighs source pixel i as
/// max(0, 1 - |i + 1/2 - (o + 1/2) s| / max(s, 1)), over the sum of these weights. Returns values 0 to 255, not
/// rounded, row by row, the channels of a pixel side by side; grey is repeated for three of them.
std::vector<double> resize(const Image& image, int channels, int height, int width);

/// Returns (value / 255 - mean) / std in float32, channel by channel: [C, H, W].
std::vector<float> normalize(const std::vector<double>& pixels, int channels, const std::vector<float>& mean,
                             const std::vector<float>& std_dev);
