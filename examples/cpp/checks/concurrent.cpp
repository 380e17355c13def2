// concurrent FOLDER THREADS CALLS: many threads call one artifact at once, each with other batches and targets. Every
// answer must be, to the bit, the one that a call by itself gave.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "../saliport.hpp"

struct Case {
  std::vector<std::int64_t> shape, target;
  std::vector<float> image;
  saliport::Explanation expected;
};

int main(int, char** argv) {
  const saliport::Artifact artifact(argv[1]);
  const int threads = std::atoi(argv[2]), calls = std::atoi(argv[3]);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<Case> cases;
  for (std::int64_t i = 0; i < 12; ++i) {
    Case made;
    made.shape = {1 + i % 4};
    std::int64_t values = made.shape[0];
    for (const std::int64_t size : artifact.image().shape) {
      made.shape.push_back(size);
      values *= size;
    }
    for (std::int64_t k = 0; k < values; ++k) made.image.push_back(normal(random));
    for (std::int64_t k = 0; k < made.shape[0]; ++k) made.target.push_back((i + k) % (artifact.classes() + 1) - 1);
    made.expected = artifact.run(made.image.data(), made.shape, made.target.data());
    cases.push_back(std::move(made));
  }
  std::atomic<int> wrong = 0, right = 0, refused = 0;
  std::vector<std::thread> workers;
  for (int worker = 0; worker < threads; ++worker)
    workers.emplace_back([&, worker] {
      for (int call = 0; call < calls; ++call) {
        const Case& one = cases[static_cast<std::size_t>(worker * 7 + call * 5) % cases.size()];
        const saliport::Explanation found = artifact.run(one.image.data(), one.shape, one.target.data());
        const bool equal = found.logits == one.expected.logits && found.attribution == one.expected.attribution;
        ++(equal ? right : wrong);
        const std::int64_t outside = artifact.classes();
        try {
          artifact.run(one.image.data(), one.shape, std::vector<std::int64_t>(one.target.size(), outside).data());
        } catch (const saliport::Error&) {
          ++refused;
        }
      }
    });
  for (std::thread& worker : workers) worker.join();
  std::printf("right %d, wrong %d, refused %d\n", right.load(), wrong.load(), refused.load());
  return wrong == 0 && right == threads * calls && refused == right ? 0 : 1;
}
