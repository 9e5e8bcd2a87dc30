"""
A decoder in a notebook
=======================

From trials to the images that were found and the pictures that were drawn, in the embedded study: *simulated* EEG of
one person, a fifth of the default study, so that it takes a minute.
"""

# %%
# A study is one person's trials and images, parted into training and test. No concept of the test images is in
# training.
import matplotlib.pyplot as plt

import hvf

config = hvf.with_settings(hvf.presets.mini(), {"data.train_concepts": 240, "align.mode": "reconstruction"})
study = hvf.open_study(config.data)
study.train

# %%
# The images. Trials name the image that they answer, so that no order has to be kept.
study.test_images

# %%
# The mean response to all images. It opens no window, and returns a figure.
study.train.plot_evoked()

# %%
# A decoder is a scikit-learn estimator of trials and images. In the mode "reconstruction" it learns to meet the
# embeddings that the Fusion Prior draws from.
decoder = hvf.Decoder(config).fit(study.train, study.train_images)
decoder

# %%
# Which of the 200 test images was seen? Chance is 0.5 % for the first.
found = decoder.retrieve(study.test, study.test_images)
found

# %%
# The prior that draws: its encoders, widths and number of parameters.
decoder.prior

# %%
# The same trials, drawn; above them what was seen.
trials = study.test[:5]
drawn = decoder.reconstruct(trials)
seen = study.test_images.select([study.test_images.ids.index(name) for name in trials.image_ids])
figure, axes = plt.subplots(2, len(drawn), figsize=(9, 4), layout="constrained")
for i, picture in enumerate(drawn):
    axes[0, i].imshow(seen[i])
    axes[1, i].imshow(picture)
for axis in axes.flat:
    axis.set_axis_off()
