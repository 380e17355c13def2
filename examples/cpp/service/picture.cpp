#include "picture.hpp"

#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

namespace {

std::array<double, 3> color(double heat) {
  return {std::clamp(3 * heat, 0.0, 1.0), std::clamp(3 * heat - 1, 0.0, 1.0), std::clamp(3 * heat - 2, 0.0, 1.0)};
}

std::uint8_t byte(double value) { return std::uint8_t(std::floor(value + 0.5)); }

/// Returns the 99.5th percentile.
double bright(std::vector<double> values) {
  const double place = 0.995 * double(values.size() - 1);
  const auto low = values.begin() + std::ptrdiff_t(place);
  std::nth_element(values.begin(), low, values.end());
  if (low + 1 == values.end()) return *low;
  const double next = *std::min_element(low + 1, values.end());
  return *low + (next - *low) * (place - std::floor(place));
}

}  // namespace

std::vector<double> positive_map(const std::vector<float>& attribution, int channels) {
  std::vector<double> heat(attribution.size() / channels);
  for (std::size_t i = 0; i < attribution.size(); ++i)
    if (attribution[i] > 0) heat[i % heat.size()] += double{attribution[i]};
  double ceiling = bright(heat);
  if (ceiling == 0) ceiling = *std::max_element(heat.begin(), heat.end());
  if (ceiling == 0) ceiling = 1;
  for (double& value : heat) value = value < ceiling ? value / ceiling : 1;
  return heat;
}

std::vector<std::uint8_t> heatmap(const std::vector<double>& heat) {
  std::vector<std::uint8_t> out;
  out.reserve(3 * heat.size());
  for (const double value : heat)
    for (const double part : color(value)) out.push_back(byte(255 * part));
  return out;
}

std::vector<std::uint8_t> overlay(const std::vector<double>& heat, const std::vector<double>& pixels, int channels) {
  std::vector<std::uint8_t> out;
  out.reserve(3 * heat.size());
  for (std::size_t i = 0; i < heat.size(); ++i) {
    const std::array<double, 3> glow = color(heat[i]);
    for (std::size_t c = 0; c < 3; ++c)
      out.push_back(byte((1 - heat[i]) * pixels[i * channels + (channels == 3 ? c : 0)] + heat[i] * 255 * glow[c]));
  }
  return out;
}

std::string encode_png(const std::vector<std::uint8_t>& rgb, int width, int height) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = png_uint_32(width);
  image.height = png_uint_32(height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string out(size, '\0');
  if (!png_image_write_to_memory(&image, out.data(), &size, 0, rgb.data(), 0, nullptr))
    throw std::runtime_error(std::string("the PNG cannot be encoded: ") + image.message);
  out.resize(size);
  return out;
}
