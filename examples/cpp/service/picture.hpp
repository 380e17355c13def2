// Attributions as pictures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// Sums the positive values of [C, H, W] over channels and scales them to [0, 1]: 1 is the 99.5th percentile (linear
/// between neighbours), or the largest value where that is 0. Returns [H, W].
std::vector<double> positive_map(const std::vector<float>& attribution, int channels);

/// Colours heat as glowing iron, black to red to yellow to white: R = 3h, G = 3h - 1, B = 3h - 2, each cut to [0, 1].
std::vector<std::uint8_t> heatmap(const std::vector<double>& heat);

/// Lays the colours of heat h over the network's own view of the image: (1 - h) pixel + h colour.
std::vector<std::uint8_t> overlay(const std::vector<double>& heat, const std::vector<double>& pixels, int channels);

/// Encodes 8-bit RGB as PNG.
std::string encode_png(const std::vector<std::uint8_t>& rgb, int width, int height);
