// What the service does with an image: prepare it, run the artifact, and write the answer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../saliport.hpp"

enum class Format { json, heatmap, overlay, raw, input };

/// What a request asks for beside the image.
struct Query {
  std::int64_t target = -1;  ///< -1: the predicted class.
  std::size_t top = 5;
  Format format = Format::json;
  std::vector<Format> include;  ///< Maps that go into the JSON.
};

struct Answer {
  std::string body, content_type;
  std::map<std::string, std::string> headers;
};

using Fields = std::vector<std::pair<std::string, std::string>>;

struct ExplainOptions {
  std::filesystem::path artifact;
  std::optional<std::pair<int, int>> size;  ///< Height and width, for an artifact that leaves them open.
  std::int64_t max_pixels = std::int64_t{1} << 24;
};

class Explainer {
 public:
  /// Loads the artifact. Throws saliport::Error, or std::invalid_argument where it takes no images.
  explicit Explainer(const ExplainOptions& options);

  /// Reads a request's fields and its Accept header. Throws Problem for what makes no sense.
  Query query(const Fields& fields, const std::string& accept) const;

  /// Answers. Throws Problem where the image cannot be explained. Safe to call from many threads.
  Answer explain(const Query& query, std::string_view file) const;

  /// The artifact in words.
  std::string description() const;

 private:
  std::int64_t class_of(const std::string& text) const;

  saliport::Artifact artifact_;
  std::int64_t max_pixels_;
  int channels_ = 0, height_ = 0, width_ = 0;
};
