#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string>

#include <jpeglib.h>

#include <jerror.h>

#include "image.hpp"
#include "problem.hpp"

// libjpeg is left by longjmp, which runs no destructors: what it jumps over must have none. So `Decoder` owns all, and
// its steps hold nothing but numbers.
namespace {

// A file may ask for thousands of passes over the whole picture; real progressive files have about ten.
constexpr int most_scans = 100;

struct Decoder {
  Decoder() {
    jpeg.err = jpeg_std_error(&errors);
    jpeg.client_data = this;
    errors.error_exit = fail;
    errors.emit_message = warn;
    errors.output_message = [](j_common_ptr) {};
    progress.progress_monitor = watch;
  }
  ~Decoder() { jpeg_destroy_decompress(&jpeg); }
  Decoder(const Decoder&) = delete;

  bool open(std::string_view file) {
    if (setjmp(jump)) return false;
    jpeg_create_decompress(&jpeg);
    jpeg.progress = &progress;
    jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&jpeg, TRUE);
    return true;
  }

  bool decode(std::uint8_t* pixels, std::size_t stride) {
    if (setjmp(jump)) return false;
    jpeg_start_decompress(&jpeg);
    while (jpeg.output_scanline < jpeg.output_height) {
      JSAMPROW row = pixels + jpeg.output_scanline * stride;
      jpeg_read_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_decompress(&jpeg);
    return true;
  }

  static Decoder& of(j_common_ptr jpeg) { return *static_cast<Decoder*>(jpeg->client_data); }

  [[noreturn]] static void fail(j_common_ptr jpeg) {
    Decoder& self = of(jpeg);
    self.errors.format_message(jpeg, self.text);
    std::longjmp(self.jump, 1);
  }

  /// libjpeg makes up what is missing and goes on. A prediction about made-up pixels is worse than none.
  static void warn(j_common_ptr jpeg, int level) {
    const int code = jpeg->err->msg_code;
    const bool harmless = code == JWRN_EXTRANEOUS_DATA || code == JWRN_JFIF_MAJOR || code == JWRN_ADOBE_XFORM;
    if (level < 0 && !harmless) fail(jpeg);
  }

  static void watch(j_common_ptr jpeg) {
    if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= most_scans) return;
    Decoder& self = of(jpeg);
    std::strncpy(self.text, "it has too many scans", sizeof self.text - 1);
    std::longjmp(self.jump, 1);
  }

  Problem damaged() const { return {422, "bad_image", std::string("the JPEG cannot be decoded: ") + text}; }

  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf jump;
  char text[JMSG_LENGTH_MAX] = {};
};

}  // namespace

Image decode_jpeg(std::string_view file, std::int64_t max_pixels, int& orientation) {
  Decoder decoder;
  if (!decoder.open(file)) throw decoder.damaged();
  jpeg_decompress_struct& jpeg = decoder.jpeg;
  check_size(jpeg.image_width, jpeg.image_height, max_pixels);
  if (jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK)
    throw Problem(422, "unsupported_image", "the JPEG is CMYK; convert it to RGB");
  // Now, for libjpeg forgets its markers when it has finished.
  for (const jpeg_marker_struct* marker = jpeg.marker_list; marker; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (data.substr(0, 6) != std::string_view("Exif\0\0", 6)) continue;
    orientation = exif_orientation(data.substr(6));
    break;
  }
  const bool grey = jpeg.jpeg_color_space == JCS_GRAYSCALE;
  jpeg.out_color_space = grey ? JCS_GRAYSCALE : JCS_RGB;
  Image image{int(jpeg.image_width), int(jpeg.image_height), grey ? 1 : 3, {}, "jpeg"};
  const std::size_t stride = std::size_t(image.width) * image.channels;
  image.data.resize(stride * image.height);
  if (!decoder.decode(image.data.data(), stride)) throw decoder.damaged();
  return image;
}
