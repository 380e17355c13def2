#include <png.h>

#include <csetjmp>
#include <cstring>
#include <string>

#include "image.hpp"
#include "problem.hpp"

// libpng leaves by longjmp, which runs no destructors: what it jumps over must have none. So `Decoder` owns all, and
// its two steps hold nothing but numbers.
namespace {

struct Decoder {
  explicit Decoder(std::string_view bytes) : rest(bytes) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, fail, [](png_structp, png_const_charp) {});
    info = png ? png_create_info_struct(png) : nullptr;
    if (!info) throw Problem(500, "out_of_memory", "libpng cannot start");
  }
  ~Decoder() { png_destroy_read_struct(&png, info ? &info : nullptr, nullptr); }
  Decoder(const Decoder&) = delete;

  /// Reads up to the pixels, and asks for 8 bits of grey or RGB.
  bool open() {
    if (setjmp(jump)) return false;
    png_set_read_fn(png, this, read);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);  // `check_size` is stricter, and says so in words
    png_set_chunk_cache_max(png, 64);
    png_set_chunk_malloc_max(png, 1 << 20);  // text and profiles may be bombs, too
    png_read_info(png, info);
    width = png_get_image_width(png, info);
    height = png_get_image_height(png, info);
    return true;
  }

  bool decode(std::uint8_t* pixels, std::size_t stride) {
    if (setjmp(jump)) return false;
    for (int pass = 0; pass < passes; ++pass)
      for (std::uint32_t y = 0; y < height; ++y) png_read_row(png, pixels + y * stride, nullptr);
    png_read_end(png, info);
    return true;
  }

  bool prepare() {
    if (setjmp(jump)) return false;
    const int color = png_get_color_type(png, info);
    png_set_scale_16(png);
    if (color == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (color == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png);
    png_set_strip_alpha(png);
    passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    channels = png_get_channels(png, info);
    if ((channels != 1 && channels != 3) || png_get_rowbytes(png, info) != std::size_t(width) * channels)
      png_error(png, "unknown kind of pixels");
    return true;
  }

  static void read(png_structp png, png_bytep out, std::size_t count) {
    auto* self = static_cast<Decoder*>(png_get_io_ptr(png));
    if (count > self->rest.size()) png_error(png, "the file ends too early");
    std::memcpy(out, self->rest.data(), count);
    self->rest.remove_prefix(count);
  }

  [[noreturn]] static void fail(png_structp png, png_const_charp text) {
    auto* self = static_cast<Decoder*>(png_get_error_ptr(png));
    std::strncpy(self->text, text, sizeof self->text - 1);
    std::longjmp(self->jump, 1);
  }

  Problem damaged() const { return {422, "bad_image", std::string("the PNG cannot be decoded: ") + text}; }

  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string_view rest;
  std::uint32_t width = 0, height = 0;
  int channels = 0, passes = 1;
  std::jmp_buf jump;
  char text[128] = {};
};

}  // namespace

Image decode_png(std::string_view file, std::int64_t max_pixels, int& orientation) {
  Decoder decoder(file);
  if (!decoder.open()) throw decoder.damaged();
  check_size(decoder.width, decoder.height, max_pixels);
  if (!decoder.prepare()) throw decoder.damaged();
  Image image{int(decoder.width), int(decoder.height), decoder.channels, {}, "png"};
  const std::size_t stride = std::size_t(image.width) * image.channels;
  image.data.resize(stride * image.height);
  if (!decoder.decode(image.data.data(), stride)) throw decoder.damaged();
  png_uint_32 size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(decoder.png, decoder.info, &size, &exif))
    orientation = exif_orientation({reinterpret_cast<const char*>(exif), size});
  return image;
}
