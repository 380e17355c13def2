#include "image.hpp"

#include <utility>

#include "problem.hpp"

namespace {

constexpr int largest_side = 32768;

/// Turns an image as EXIF's orientation, 2 to 8, asks.
Image turned(const Image& image, int orientation) {
  const bool swaps = orientation >= 5;
  Image out{swaps ? image.height : image.width, swaps ? image.width : image.height, image.channels, {}, image.format};
  out.data.resize(image.data.size());
  const int right = image.width - 1, bottom = image.height - 1;
  std::size_t to = 0;
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      int from_x = swaps ? y : x, from_y = swaps ? x : y;
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) from_x = right - from_x;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) from_y = bottom - from_y;
      const std::size_t from = (std::size_t(from_y) * image.width + from_x) * image.channels;
      for (int c = 0; c < image.channels; ++c) out.data[to++] = image.data[from + c];
    }
  }
  return out;
}

}  // namespace

Image decode(std::string_view file, std::int64_t max_pixels) {
  using namespace std::string_view_literals;
  int orientation = 1;
  Image image;
  if (file.substr(0, 8) == "\x89PNG\r\n\x1a\n"sv)
    image = decode_png(file, max_pixels, orientation);
  else if (file.substr(0, 3) == "\xff\xd8\xff"sv)
    image = decode_jpeg(file, max_pixels, orientation);
  else
    throw Problem(415, "unsupported_image", file.empty() ? "the image is empty" : "the image is neither PNG nor JPEG");
  return orientation == 1 ? std::move(image) : turned(image, orientation);
}

Image with_channels(Image image, int channels) {
  if (image.channels == channels) return image;
  Image out{image.width, image.height, channels, {}, image.format};
  const std::size_t pixels = image.data.size() / image.channels;
  out.data.resize(pixels * channels);
  for (std::size_t i = 0; i < pixels; ++i) {
    if (channels == 3) {
      for (int c = 0; c < 3; ++c) out.data[3 * i + c] = image.data[i];
    } else {
      const std::uint8_t* rgb = &image.data[3 * i];
      out.data[i] = std::uint8_t((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 0x8000u) >> 16);
    }
  }
  return out;
}

void check_size(std::int64_t width, std::int64_t height, std::int64_t max_pixels) {
  const std::string size = std::to_string(width) + " x " + std::to_string(height);
  if (width < 1 || height < 1) throw Problem(422, "bad_image", "the image has no pixels: " + size);
  if (width > largest_side || height > largest_side || width * height > max_pixels)
    throw Problem(422, "image_too_large",
                  "the image is " + size + "; at most " + std::to_string(max_pixels) + " pixels and sides of " +
                      std::to_string(largest_side) + " are decoded");
}

int exif_orientation(std::string_view exif) {
  const bool little = exif.substr(0, 2) == "II";
  if (!little && exif.substr(0, 2) != "MM") return 1;
  const auto number = [&](std::size_t at, std::size_t bytes) -> std::size_t {
    if (at > exif.size() || exif.size() - at < bytes) return 0;
    std::size_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i)
      value = value << 8 | static_cast<unsigned char>(exif[at + (little ? bytes - 1 - i : i)]);
    return value;
  };
  constexpr std::size_t tag = 0x0112, type_short = 3;
  const std::size_t directory = number(4, 4), entries = number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (entry >= exif.size()) break;
    if (number(entry, 2) != tag || number(entry + 2, 2) != type_short) continue;
    const std::size_t value = number(entry + 8, 2);
    return value >= 1 && value <= 8 ? int(value) : 1;
  }
  return 1;
}
