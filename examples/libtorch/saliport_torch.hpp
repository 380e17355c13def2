// Runs a Saliport artifact's TorchScript file in libtorch, with the interface of saliport::Artifact.
//
// Of two formats this is the one to trust less: TorchScript is a language, and loading a file can run what is in it.
// The hash shows that the file is the one that was proven, if you trust the manifest. Give artifacts of unknown origin
// to the onnxruntime runner only.
//
// SPDX-License-Identifier: MIT
#pragma once

#define SALIPORT_NO_ONNXRUNTIME
#include <ATen/Parallel.h>
#include <torch/script.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "saliport.hpp"

namespace saliport {

/// A loaded `model.pt`. `run` may be called from many threads at once.
class TorchArtifact {
 public:
  /// Checks the manifest and the file's hash, opens the bytes that were hashed, freezes the module, and warms up.
  ///
  /// Frozen, weights are constants, and libtorch folds each batch norm into its convolution: that rounds a little
  /// otherwise than the file as it was proven, and takes 7 % less of a mobilenet_v2, 5 % of a resnet50.
  ///
  /// TorchScript's executor records shapes in a function's first call and compiles in the second; both are slow. So two
  /// calls are made here, on zeros, one image each. `warm_up` false leaves them to the first two callers.
  explicit TorchArtifact(const std::filesystem::path& folder, Options options = {}, bool warm_up = true)
      : manifest_(Manifest::read(folder)), options_(options) {
    if (options.threads < 1 || options.threads > 1024)
      throw Error(Error::Kind::bad_input, "threads is " + std::to_string(options.threads) + "; it must be 1 to 1024");
    detail::guarded(folder.string() + "/model.pt cannot be opened", [&] {
      use_threads();
      std::istringstream file(manifest_.model("torchscript"));
      module_ = torch::jit::load(file, torch::kCPU);
      module_.eval();
      module_ = torch::jit::freeze(module_);
    });
    if (warm_up) this->warm_up();
  }

  /// Predicts and explains a batch, as saliport::Artifact::run does.
  Explanation run(const float* image, const std::vector<std::int64_t>& shape, const std::int64_t* target) const {
    const std::int64_t values = manifest_.check_shape(shape, options_.max_values);
    if (!image) throw Error(Error::Kind::bad_input, manifest_.image.name + " is null");
    Explanation out{shape[0], manifest_.classes, {}, {}, shape};
    detail::guarded("libtorch cannot run the model", [&] {
      std::vector<std::int64_t> targets = manifest_.check_target(target, out.batch);
      use_threads();
      const torch::InferenceMode no_autograd;
      // from_blob takes mutable memory; the artifact has no operator that writes to its inputs.
      const std::vector<c10::IValue> inputs = {
          torch::from_blob(const_cast<float*>(image), shape, torch::kFloat32),
          torch::from_blob(targets.data(), {out.batch}, torch::kInt64)};
      const auto found = module_.get_method("forward")(inputs).toTuple();
      if (found->elements().size() != 2) throw std::runtime_error("it does not return two tensors");
      out.logits = values_of(found->elements()[0].toTensor(), {out.batch, out.classes});
      out.attribution = values_of(found->elements()[1].toTensor(), shape);
      if (static_cast<std::int64_t>(out.attribution.size()) != values) throw std::runtime_error("values are missing");
    });
    return out;
  }

  const Manifest& manifest() const noexcept { return manifest_; }

 private:
  /// Sets how many threads share the work of the calling one. OpenMP keeps that for each, and libtorch's own number
  /// reaches a new thread only with its first loop: a convolution before that would get all processors.
  void use_threads() const {
    // Only where it differs: it becomes the number of the process, too, for threads that are new.
    if (at::get_num_threads() != options_.threads) at::set_num_threads(options_.threads);
  }

  void warm_up() const {
    std::vector<std::int64_t> shape = manifest_.smallest();
    std::int64_t values = 1;
    for (const std::int64_t size : shape) values *= size;
    const std::vector<float> zeros(static_cast<std::size_t>(values));
    for (int i = 0; i < 2; ++i) run(zeros.data(), shape, nullptr);
  }

  static std::vector<float> values_of(const at::Tensor& tensor, at::IntArrayRef shape) {
    if (tensor.scalar_type() != torch::kFloat32 || tensor.sizes() != shape)
      throw std::runtime_error("it returns a tensor that the manifest does not describe");
    const at::Tensor plain = tensor.contiguous();
    return {plain.const_data_ptr<float>(), plain.const_data_ptr<float>() + plain.numel()};
  }

  Manifest manifest_;
  Options options_;
  torch::jit::Module module_;
};

}  // namespace saliport
