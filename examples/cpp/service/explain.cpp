#include "explain.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <stdexcept>

#include "image.hpp"
#include "multipart.hpp"
#include "picture.hpp"
#include "preprocess.hpp"
#include "problem.hpp"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "raw answers are little endian");

namespace {

using Json = nlohmann::ordered_json;

struct Kind {
  Format format;
  const char *name, *type;
};
constexpr std::array<Kind, 5> kinds = {{{Format::json, "json", "application/json"},
                                        {Format::heatmap, "heatmap", "image/png"},
                                        {Format::overlay, "overlay", "image/png"},
                                        {Format::raw, "raw", "application/octet-stream"},
                                        {Format::input, "input", "application/octet-stream"}}};

const Kind& kind_of(Format format) { return kinds[std::size_t(format)]; }

Problem bad(const std::string& field, const std::string& why) { return {400, "bad_" + field, field + " " + why}; }

/// Quotes what a client sent, shortened.
std::string quoted(const std::string& text) {
  return '"' + (text.size() > 80 ? text.substr(0, 80) + "..." : text) + '"';
}

Format format_of(const std::string& field, const std::string& text) {
  for (const Kind& kind : kinds)
    if (text == kind.name) return kind.format;
  throw bad(field, "is " + quoted(text) + "; it is json, heatmap, overlay, raw or input");
}

/// Chooses by an Accept header (RFC 9110, section 12.5.1): the type with the highest weight, of equals the first.
Format accepted(const std::string& accept) {
  if (trimmed(accept).empty()) return Format::json;
  double best = 0;
  Format chosen = Format::json;
  for (std::size_t at = 0; at < accept.size();) {
    const std::size_t end = std::min(accept.find(',', at), accept.size());
    const std::string_view item = std::string_view(accept).substr(at, end - at);
    at = end + 1;
    const std::string_view type = trimmed(item.substr(0, item.find(';')));
    const std::string weight = parameter(item, "q");
    const double q = weight.empty() ? 1 : std::atof(weight.c_str());
    if (!(q > best)) continue;
    Format format;
    if (type == "*/*" || type == "application/*" || same(type, "application/json"))
      format = Format::json;
    else if (type == "image/*" || same(type, "image/png"))
      format = Format::heatmap;
    else if (same(type, "application/octet-stream"))
      format = Format::raw;
    else
      continue;
    best = q;
    chosen = format;
  }
  if (best == 0)
    throw Problem(406, "not_acceptable", "answers are application/json, image/png or application/octet-stream");
  return chosen;
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 18 && text.find_first_not_of("0123456789") == text.npos;
}

std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::string base64(const std::string& bytes) {
  constexpr const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j) out += i + j > bytes.size() ? '=' : digits[group >> (18 - 6 * j) & 63];
  }
  return out;
}

std::vector<double> softmax(const std::vector<float>& logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  std::vector<double> out;
  for (const float logit : logits) out.push_back(std::exp(double{logit} - most));
  const double sum = std::accumulate(out.begin(), out.end(), 0.0);
  for (double& value : out) value /= sum;
  return out;
}

}  // namespace

Explainer::Explainer(const ExplainOptions& options) : artifact_(options.artifact), max_pixels_(options.max_pixels) {
  std::vector<std::int64_t> shape = artifact_.image().shape;
  const bool image = shape.size() == 3 && (shape[0] == 1 || shape[0] == 3);
  if (!image) throw std::invalid_argument("the artifact takes no images of one or three channels");
  if (options.size) {
    const std::array<int, 2> given = {options.size->first, options.size->second};
    for (std::size_t i = 0; i < 2; ++i) {
      if (shape[i + 1] >= 0 && shape[i + 1] != given[i])
        throw std::invalid_argument("--size does not fit: the artifact's own is fixed");
      shape[i + 1] = given[i];
    }
  }
  if (shape[1] < 0 || shape[2] < 0)
    throw std::invalid_argument("the artifact takes images of several sizes; choose one with --size HEIGHTxWIDTH");
  channels_ = int(shape[0]);
  height_ = int(shape[1]);
  width_ = int(shape[2]);
  const std::size_t named = artifact_.mean().size();
  if (named != 0 && named != std::size_t(channels_))
    throw std::invalid_argument("the artifact's normalisation is not that of its channels");
  // The first call takes memory and time that later ones do not, and shows whether the graph takes the size.
  const std::vector<float> zero(std::size_t(channels_) * height_ * width_);
  artifact_.run(zero.data(), {1, channels_, height_, width_}, nullptr);
}

std::string Explainer::description() const {
  return artifact_.method() + ", " + std::to_string(channels_) + " x " + std::to_string(height_) + " x " +
         std::to_string(width_) + " -> " + std::to_string(artifact_.classes()) + " classes";
}

/// Reads a target: the number of a class or, where the artifact has names, its name. Digits are a number.
std::int64_t Explainer::class_of(const std::string& text) const {
  const std::int64_t classes = artifact_.classes();
  if (text == "-1") return -1;
  if (is_number(text)) {
    if (std::stoll(text) < classes) return std::stoll(text);
  } else {
    const std::vector<std::string>& names = artifact_.class_names();
    const auto found = std::find(names.begin(), names.end(), text);
    if (found != names.end()) return found - names.begin();
  }
  throw bad("target", "is " + quoted(text) + "; classes are 0 to " + std::to_string(classes - 1) +
                          (artifact_.class_names().empty() ? "" : " or their names") + ", and -1 is the predicted one");
}

Query Explainer::query(const Fields& fields, const std::string& accept) const {
  Query query;
  std::set<std::string> seen;
  for (const auto& [name, text] : fields) {
    if (!seen.insert(name).second) throw Problem(400, "repeated_field", quoted(name) + " is given more than once");
    if (name == "target") {
      query.target = class_of(text);
    } else if (name == "top") {
      if (!is_number(text)) throw bad(name, "is " + quoted(text) + "; it is a number of classes");
      query.top = std::size_t(std::stoll(text));
    } else if (name == "format") {
      query.format = format_of(name, text);
    } else if (name == "include") {
      for (std::size_t at = 0; at <= text.size();) {
        const std::size_t end = std::min(text.find(',', at), text.size());
        const Format format = format_of(name, text.substr(at, end - at));
        if (format == Format::json) throw bad(name, "lists maps, and json is none");
        query.include.push_back(format);
        at = end + 1;
      }
      if (query.include.size() > kinds.size()) throw bad(name, "lists a map more than once");
    } else {
      throw Problem(400, "unknown_field",
                    quoted(name) + " is no field; there are image, target, top, format and include");
    }
  }
  if (!seen.count("format")) query.format = accepted(accept);
  if (!query.include.empty() && query.format != Format::json) throw bad("include", "goes with json alone");
  return query;
}

Answer Explainer::explain(const Query& query, std::string_view file) const {
  Image image = decode(file, max_pixels_);
  const int given_width = image.width, given_height = image.height;
  const std::string given_format = image.format;
  if (channels_ == 1) to_grey(image);
  const std::vector<double> pixels = resize(image, channels_, height_, width_);
  image = {};
  const std::vector<float> input = normalize(pixels, channels_, artifact_.mean(), artifact_.std_dev());
  const saliport::Explanation found = artifact_.run(input.data(), {1, channels_, height_, width_}, &query.target);

  const std::vector<double> chances = softmax(found.logits);
  std::vector<std::size_t> order(chances.size());
  std::iota(order.begin(), order.end(), 0);
  const std::size_t top = std::min(query.top, order.size());
  const auto likelier = [&](std::size_t a, std::size_t b) {
    return found.logits[a] != found.logits[b] ? found.logits[a] > found.logits[b] : a < b;
  };
  const auto sorted = order.begin() + std::ptrdiff_t(std::max<std::size_t>(top, 1));
  std::partial_sort(order.begin(), sorted, order.end(), likelier);
  const std::size_t target = query.target < 0 ? order[0] : std::size_t(query.target);

  const auto map = [&](Format format) -> std::string {
    if (format == Format::raw) return bytes_of(found.attribution);
    if (format == Format::input) return bytes_of(input);
    const std::vector<double> heat = positive_map(found.attribution, channels_);
    return encode_png(format == Format::heatmap ? heatmap(heat) : overlay(heat, pixels, channels_), width_, height_);
  };

  Answer answer;
  answer.content_type = kind_of(query.format).type;
  if (query.format != Format::json) {
    answer.body = map(query.format);
    answer.headers["Saliport-Target"] = std::to_string(target);
    answer.headers["Saliport-Method"] = artifact_.method();
    if (query.format == Format::raw || query.format == Format::input) {
      answer.headers["Saliport-Dtype"] = "<f4";
      answer.headers["Saliport-Shape"] =
          std::to_string(channels_) + "," + std::to_string(height_) + "," + std::to_string(width_);
    }
    return answer;
  }

  const auto described = [&](std::size_t index) {
    Json out = {{"index", index}};
    if (!artifact_.class_names().empty()) out["name"] = artifact_.class_names()[index];
    out["probability"] = chances[index];
    out["logit"] = found.logits[index];
    return out;
  };
  Json json = {{"target", described(target)}, {"top", Json::array()}};
  for (std::size_t i = 0; i < top; ++i) json["top"].push_back(described(order[i]));
  json["method"] = artifact_.method();
  json["image"] = {{"format", given_format}, {"width", given_width}, {"height", given_height}};
  json["input"] = {{"channels", channels_}, {"height", height_}, {"width", width_}};
  for (const Format format : query.include)
    json["maps"][kind_of(format).name] = {{"type", kind_of(format).type}, {"base64", base64(map(format))}};
  answer.body = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return answer;
}
