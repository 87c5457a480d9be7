import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.metrics.dawid_skene import dawid_skene


def simulated(rng, confusion, prior, items, missing=0.0):
    truth = rng.choice(len(prior), size=items, p=prior)
    labels = np.stack([[rng.choice(len(prior), p=one[t]) for t in truth] for one in confusion], axis=1)
    labels[rng.random(labels.shape) < missing] = -1
    labels[(labels == -1).all(axis=1), 0] = 0
    return truth, labels


CONFUSION = np.array(
    [
        [[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
        [[0.8, 0.1, 0.1], [0.05, 0.9, 0.05], [0.2, 0.1, 0.7]],
        [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]],
        [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.0, 0.1, 0.9]],
        [[1 / 3] * 3] * 3,  # answers at random
    ]
)
PRIOR = np.array([0.5, 0.3, 0.2])


def test_known_confusion_matrices_are_recovered_within_four_standard_errors():
    truth, labels = simulated(np.random.default_rng(1), CONFUSION, PRIOR, 4000)
    found = dawid_skene(labels, 3)
    assert found.converged
    counts = 4000 * PRIOR
    for annotator in range(5):
        for true_class in range(3):
            error = np.sqrt(
                np.maximum(CONFUSION[annotator, true_class] * (1 - CONFUSION[annotator, true_class]), 0.01) / counts[true_class]
            )
            # EM does not see the truth; its error is at most twice that of counting with the truth for annotators this good
            assert (np.abs(found.confusion[annotator, true_class] - CONFUSION[annotator, true_class]) < 8 * error).all()
    np.testing.assert_allclose(found.prior, PRIOR, atol=4 * np.sqrt(0.25 / 4000))
    right = (found.posterior.argmax(axis=1) == truth).mean()
    majority = np.array([np.bincount(row, minlength=3).argmax() for row in labels])
    assert right > (majority == truth).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_objective_never_falls(seed, smoothing):
    _, labels = simulated(np.random.default_rng(seed), CONFUSION, PRIOR, 60, missing=0.5)
    found = dawid_skene(labels, 3, smoothing=smoothing, max_steps=60, tolerance=0.0)
    assert (np.diff(found.objective) >= -1e-9 * np.abs(found.objective[1:])).all()
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)
    np.testing.assert_allclose(found.confusion.sum(axis=2), 1)


def test_the_objective_is_the_log_likelihood_of_the_labels():
    labels = np.array([[0, 0], [1, 1], [0, 1]])
    found = dawid_skene(labels, 2, smoothing=0.0, max_steps=1)
    # after one step from the shares of votes: posterior (1,0), (0,1), (.5,.5)
    prior = np.array([0.5, 0.5])
    confusion = np.array([[[1.0, 0.0], [0.5 / 1.5, 1 / 1.5]], [[1 / 1.5, 0.5 / 1.5], [0.0, 1.0]]])
    np.testing.assert_allclose(found.confusion, confusion)
    likelihood = [sum(prior[t] * confusion[0, t, a] * confusion[1, t, b] for t in range(2)) for a, b in labels]
    assert found.objective[-1] == pytest.approx(np.log(likelihood).sum())


def test_gold_answers_hold_against_all_votes_and_teach_who_is_right():
    labels = np.array([[0, 1]] * 20 + [[1, 0]] * 20)  # two annotators who never agree: without gold nobody is right
    known = np.full(40, -1)
    known[:5], known[20:25] = 0, 1
    found = dawid_skene(labels, 2, known=known)
    assert (found.posterior[:5] == [1.0, 0.0]).all()
    assert (found.posterior[:20, 0] > 0.95).all()
    assert (found.posterior[20:, 1] > 0.95).all()
    free = dawid_skene(labels, 2)
    np.testing.assert_allclose(free.posterior, 0.5)


def test_repeats_count_as_labels_of_their_own():
    once = dawid_skene(np.array([[0, 1], [1, 1], [0, 0]]), 2, max_steps=3)
    same = dawid_skene(np.array([[[0, -1], [1, -1]], [[-1, 1], [1, -1]], [[0, -1], [-1, 0]]]), 2, max_steps=3)
    np.testing.assert_allclose(once.posterior, same.posterior)


def test_an_item_without_label_and_a_class_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="no label at all"):
        dawid_skene(np.array([[0, 1], [-1, -1]]), 2)
    with pytest.raises(ConfigError, match=r"classes 0\.\.1"):
        dawid_skene(np.array([[0, 2]]), 2)
