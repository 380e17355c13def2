#include "image.hpp"

#include <utility>

#include "problem.hpp"

namespace {

constexpr int largest_side = 32768;

/// Turns an image as EXIF's orientation, 1 to 8, asks.
void turn(Image& image, int orientation) {
  const bool mirrors = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flips = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  if (mirrors) {
    image.first += image.right * (image.width - 1);
    image.right = -image.right;
  }
  if (flips) {
    image.first += image.down * (image.height - 1);
    image.down = -image.down;
  }
  if (orientation < 5) return;
  std::swap(image.width, image.height);
  std::swap(image.right, image.down);
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
  turn(image, orientation);
  return image;
}

void to_grey(Image& image) {
  if (image.channels == 1) return;
  const std::size_t pixels = image.data.size() / 3;
  for (std::size_t i = 0; i < pixels; ++i) {
    const std::uint8_t* rgb = &image.data[3 * i];
    image.data[i] = std::uint8_t((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 0x8000u) >> 16);
  }
  image.data.resize(pixels);
  image.channels = 1;
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
