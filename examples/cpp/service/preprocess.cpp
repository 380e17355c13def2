#include "preprocess.hpp"

#include <algorithm>
#include <cmath>

namespace {

/// The source pixels that a target pixel is made of: `weights.size()` of them, beginning with `first`.
struct Window {
  int first;
  std::vector<double> weights;
};

std::vector<Window> windows(int source, int target) {
  const double scale = double(source) / target, width = std::max(scale, 1.0);
  std::vector<Window> out;
  for (int o = 0; o < target; ++o) {
    const double center = (o + 0.5) * scale;
    const int first = std::max(0, int(std::floor(center - width))), last = std::min(source, int(center + width) + 1);
    Window window{first, {}};
    double sum = 0;
    for (int i = first; i < last; ++i) {
      window.weights.push_back(std::max(0.0, 1 - std::abs(i + 0.5 - center) / width));
      sum += window.weights.back();
    }
    for (double& weight : window.weights) weight /= sum;
    out.push_back(std::move(window));
  }
  return out;
}

}  // namespace

std::vector<double> resize(const Image& image, int channels, int height, int width) {
  const std::vector<Window> columns = windows(image.width, width), rows = windows(image.height, height);
  std::vector<double> out(std::size_t(height) * width * channels), line(std::size_t(width) * channels);
  const std::ptrdiff_t step = image.right * image.channels;
  // Row by row, so that no more memory is taken than the result's, however long and thin the image is.
  int done = 0;  // the target rows before this one need no further source row
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < width; ++x) {
      const Window& window = columns[x];
      for (int c = 0; c < channels; ++c) {
        const std::uint8_t* source = image.pixel(window.first, y) + (image.channels == 1 ? 0 : c);
        double sum = 0;
        for (std::size_t i = 0; i < window.weights.size(); ++i)
          sum += window.weights[i] * source[std::ptrdiff_t(i) * step];
        line[std::size_t(x) * channels + c] = sum;
      }
    }
    while (done < height && rows[done].first + int(rows[done].weights.size()) <= y) ++done;
    for (int o = done; o < height && rows[o].first <= y; ++o) {
      const std::size_t at = y - rows[o].first;
      if (at >= rows[o].weights.size()) continue;
      double* target = &out[std::size_t(o) * line.size()];
      for (std::size_t i = 0; i < line.size(); ++i) target[i] += rows[o].weights[at] * line[i];
    }
  }
  return out;
}

std::vector<float> normalize(const std::vector<double>& pixels, int channels, const std::vector<float>& mean,
                             const std::vector<float>& std_dev) {
  const std::size_t count = pixels.size() / channels;
  std::vector<float> out(pixels.size());
  for (int c = 0; c < channels; ++c) {
    const float shift = mean.empty() ? 0 : mean[c], scale = std_dev.empty() ? 1 : std_dev[c];
    for (std::size_t i = 0; i < count; ++i)
      out[c * count + i] = (static_cast<float>(pixels[i * channels + c] / 255) - shift) / scale;
  }
  return out;
}
