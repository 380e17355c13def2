// Images as they come from outside: a PNG or JPEG file in memory becomes 8-bit pixels, the right way up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

struct Image {
  int width = 0, height = 0;
  int channels = 0;                ///< 1: grey, 3: RGB.
  std::vector<std::uint8_t> data;  ///< The channels of a pixel side by side.
  std::string format;              ///< "png" or "jpeg".
  // Which pixel in `data` is the one at the upper left, and how many further the next one to the right and below is. So
  // an image is turned without a copy, which would take as much memory again.
  std::ptrdiff_t first = 0, right = 1, down = width;

  const std::uint8_t* pixel(int x, int y) const { return &data[std::size_t(first + x * right + y * down) * channels]; }
};

/// Decodes a PNG or JPEG file, which its first bytes tell apart, and turns it as its EXIF orientation says.
///
/// Colour profiles and gamma are not applied. An alpha channel is dropped, 16 bits become 8 by rounding. Width and
/// height are checked before memory is taken for pixels. Throws Problem: 415 for anything else, 422 for a file that is
/// damaged, cut short, too large, or CMYK.
Image decode(std::string_view file, std::int64_t max_pixels);

/// Makes RGB grey, in place: 0.299 R + 0.587 G + 0.114 B, rounded.
void to_grey(Image& image);

// One for each format; `decode` calls them. The orientation is EXIF's, 1 to 8.
Image decode_png(std::string_view file, std::int64_t max_pixels, int& orientation);
Image decode_jpeg(std::string_view file, std::int64_t max_pixels, int& orientation);

/// Throws Problem 422 where an image is empty or has more pixels than allowed.
void check_size(std::int64_t width, std::int64_t height, std::int64_t max_pixels);

/// Reads the orientation out of an EXIF block (a TIFF header and its first directory); 1 where it has none.
int exif_orientation(std::string_view exif);
