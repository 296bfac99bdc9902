"""A description of each reported metric in a line, for the model card."""

from collections.abc import Mapping

DESCRIPTIONS: Mapping[str, str] = {
    "mse": "mean squared error of the reconstructions, pixels in [0, 1]",
    "psnr": "their peak signal-to-noise ratio in dB, the mean over the images",
    "explained_variance": "share of the variance of the test images that they keep: 1 - mse / the error of "
    "the mean image",
    "ssim": "their structural similarity, at most 1",
    "ms_ssim": "the same at five resolutions; none for images under 176 pixels",
    "rfid": "Frechet distance of the reconstructions to the images in features of InceptionV3 (1706.08500)",
    "perplexity": "of the codebook over the whole split: how many codes, evenly used, have the same entropy",
    "usage": "share of the codebook that is used at all",
    "active_units": "dimensions, of a grid channels, whose posterior mean varies by more than 0.01 over the "
    "images (1509.00519)",
    "steps": "steps of the optimiser in which the model was trained",
    "prior_steps": "steps of the optimiser in which the prior over the codes was trained",
    "classifier_steps": "steps in which the noise contrastive prior's classifier was trained",
    "bits": "what an entropy coder would need for the codes of an image with the prior, computed in torch",
    "bits_given_class": "the same, given the image's class",
    "classifier_loss": "cross-entropy of the noise contrastive prior's classifier on test images, in nats; "
    "0.693 for a guess, computed in torch",
    "classifier_accuracy": "share of codes of test images and samples of the prior that it classifies right",
    "elbo": "evidence lower bound of log p(x), in nats an image",
    "reconstruction": "its first part, the expectation of log p(x|z) under the posterior",
    "kl": "its second part, KL(q(z|x) || p(z)) with the prior",
    "nll": "-log p(x) by importance sampling, in nats an image: an upper bound that falls with more samples",
    "nll_samples": "importance samples for each image",
    "mnist_fd": "Frechet distance to real digits in the features of the reference classifier; no FID, "
    "and not comparable with one",
    "precision": "share of the images that lie near real ones (1904.06991)",
    "recall": "share of the real ones that lie near images (1904.06991)",
    "density": "how many real neighbourhoods an image lies in, over how many it would (2002.09797)",
    "coverage": "share of real neighbourhoods with an image in them (2002.09797)",
    "accuracy": "share that the reference classifier assigns to the requested class, or to the label",
    "energy": "|z|^2 / 2 - logit of the classifier, of the last state of the chain",
    "acceptance_rate": "share of the proposals of a chain that were taken",
    "effective_proposals": "how many equally weighted proposals the draws of a sample are worth",
}
