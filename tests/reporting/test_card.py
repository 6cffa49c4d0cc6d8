"""The model card: metadata that the Hub's own classes read back, and text that states every caveat."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from whisper_emotion.card_metadata import CardOptions, describe_missing
from whisper_emotion.errors import UserError
from whisper_emotion.reporting.card import describe_scores, write_model_card
from whisper_emotion.reporting.corpora import records_table

EXPECTED = Path(__file__).with_name("expected_card.md")
LABELS = ["angry", "happy", "neutral", "sad"]
CONFIG = SimpleNamespace(
    encoder_layer=8,
    encoder_layers=12,
    concatenated_layers=None,
    logit_temperature=1.0,
    use_weighted_layer_sum=False,
    encoder_context="window",
    context_margin=1.0,
    classifier_proj_size=256,
    pooling="qkv",
    pooling_heads=6,
    pooling_head_dim=4,
    pooling_scores="paper",
    mask_padding=True,
    num_labels=4,
    id2label=dict(enumerate(LABELS)),
)
TRAINING = {
    "freeze_encoder": True,
    "learning_rate": 0.001,
    "num_train_epochs": 30,
    "per_device_train_batch_size": 16,
    "weight_decay": 0.01,
    "max_steps": None,
    "seed": 42,
}
SCORES = {
    "corpus": "shemo",
    "folds": "paper",
    "select_on": "dev",
    "encoder": "openai/whisper-small",
    "encoder_layer": 8,
    "pooling": "qkv",
    "seeds": [42],
    "labels": LABELS,
    "weighted_accuracy": {"mean": 0.8919, "std": 0.0268, "folds": [[0.8654, 0.9184]]},
    "unweighted_accuracy": {"mean": 0.8307, "std": 0.0499, "folds": [[0.7808, 0.8806]]},
    "macro_f1": {"mean": 0.841, "std": 0.0301, "folds": [[0.8109, 0.8711]]},
    "pooled": {"weighted_accuracy": 0.8921, "unweighted_accuracy": 0.8312, "macro_f1": 0.8402},
    "confusion_matrix": [[90, 5, 5, 0], [2, 16, 2, 0], [5, 1, 92, 2], [1, 1, 8, 30]],
    "ece": 0.0512,
    "mean_confidence": 0.934,
    "speakers_shared": [0, 0],
    "seconds": 12.5,
}


def one_fold(**changes):
    scores = copy.deepcopy(SCORES) | {"speakers_shared": [0]}
    for key in ("weighted_accuracy", "unweighted_accuracy", "macro_f1"):
        scores[key] = {"mean": scores["pooled"][key], "std": 0.0, "folds": [[scores["pooled"][key]]]}
    return scores | changes


def write(folder, scores=SCORES, config=CONFIG, training=TRAINING, options=None, evaluations=()):
    folder = folder / "my-model"
    folder.mkdir(exist_ok=True)
    write_model_card(folder, scores, config, training, options, evaluations)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_card_equals_the_recorded_one(tmp_path):
    text = write(tmp_path)
    assert text == EXPECTED.read_text(encoding="utf-8"), "read the new card, then record it"


def test_card_shows_robustness_and_fairness(tmp_path):
    from test_evaluations import evaluation

    text = write(tmp_path, evaluations=[evaluation(), evaluation("tess", 0.0)])
    assert "averaged over\n2 corpora: EMO-DB, TESS; models: `mine`; adaptation: domain:" in text
    assert "| noise | 70.0 | 10.0 (20.0) | 60.0 | 10.0 |\n\n### Fairness\n" in text
    assert "| TESS | 80.0 | 70.0 | 10.0 (-2.0 to 20.0) | 4 | 75.0 | 60.0 | 60.0 |\n\n## The model\n" in text
    assert "### Fairness" not in write(tmp_path)


def test_card_says_clips_were_held_out_where_speakers_are_unknown(tmp_path):
    facts = TRAINING | {"speakers": "not known", "adaptation": "dev: no"}
    text = write(tmp_path, training=facts)
    assert "the epoch was chosen on clips held out of the training folds" in text
    assert "did not help on held-out training clips" in text and "held-out training speakers" not in text


def test_card_says_what_the_corpus_itself_split_and_states(tmp_path):
    scores = SCORES | {"corpus": "emodb,table", "folds": "split"}
    text = write(tmp_path, scores, training=TRAINING | {"corpus": "emodb,table", "folds": "split"})
    assert "the epoch was chosen on clips held out of the training folds" in text
    assert "in training: 0, as far as the table tells." in text
    assert "Languages of the training speech: de; some are not stated." in text
    text = write(tmp_path, scores, options=CardOptions(language="de,fr"))
    assert "Languages of the training speech: de, fr. Emotions" in text


def test_card_metadata_are_read_back_by_the_hubs_classes(tmp_path):
    write(tmp_path)
    data = ModelCard.load(tmp_path / "my-model" / "README.md").data
    common = {
        "task_type": "audio-classification",
        "task_name": "Speech emotion recognition",
        "dataset_type": "shemo",
        "dataset_name": "ShEMO",
        "dataset_config": "paper",
        "dataset_split": "test",
        "dataset_args": {"select_on": "dev", "speakers_shared": [0, 0]},
    }
    macro = {"average": "macro"}
    assert data.eval_results == [
        EvalResult(
            metric_type="accuracy",
            metric_value=89.2,
            metric_name="Weighted accuracy (WA), %, mean over 2 folds, 1 seed (± 2.7)",
            **common,
        ),
        EvalResult(
            metric_type="recall",
            metric_value=83.1,
            metric_name="Unweighted accuracy (UA), %, mean over 2 folds, 1 seed (± 5.0)",
            metric_args=macro,
            **common,
        ),
        EvalResult(
            metric_type="f1",
            metric_value=84.1,
            metric_name="Macro F1, %, mean over 2 folds, 1 seed (± 3.0)",
            metric_args=macro,
            **common,
        ),
    ]
    metadata = metadata_load(tmp_path / "my-model" / "README.md")
    assert metadata is not None
    assert metadata["model-index"][0]["name"] == "my-model"
    assert (metadata["language"], metadata["base_model"], metadata["datasets"]) == (
        "fa",
        "openai/whisper-small",
        ["shemo"],
    )
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("transformers", "audio-classification")


@pytest.mark.parametrize(
    ("corpus", "language", "license", "says"),
    [
        ("emodb", "de", "cc0-1.0", "535 German"),
        ("ravdess", "en", "cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0"),
        ("iemocap", "en", "other", "release form"),
        ("shemo", "fa", "other", "Persian"),
        ("synthetic", None, "apache-2.0", "say nothing about real speech"),
        ("folder", None, "other", "own recordings"),
        ("hub:someone/voices", None, "other", "https://huggingface.co/datasets/someone/voices"),
    ],
)
def test_card_language_licence_and_notes_follow_the_corpus(tmp_path, corpus, language, license, says):
    text = write(tmp_path, one_fold(corpus=corpus))
    metadata = metadata_load(tmp_path / "my-model" / "README.md")
    assert metadata is not None
    assert (metadata.get("language"), metadata["license"]) == (language, license)
    assert says in text
    assert "\n\n\n" not in text and "None" not in text.replace("top_k=None", "")


@pytest.mark.parametrize(
    "corpus", ["emodb", "ravdess", "iemocap", "shemo", "synthetic", "folder", "hub:someone/voices"]
)
def test_card_metadata_survive_the_hubs_classes_unchanged(tmp_path, corpus):
    write(tmp_path, SCORES | {"corpus": corpus})
    metadata = metadata_load(tmp_path / "my-model" / "README.md")
    assert metadata is not None
    data = ModelCardData(**copy.deepcopy(metadata))
    assert data.to_dict() == metadata
    assert ModelCardData(**yaml.safe_load(data.to_yaml())).to_dict() == metadata
    assert (data.library_name, data.pipeline_tag) == ("transformers", "audio-classification")
    assert data.base_model == "openai/whisper-small"
    public = {"folder": None, "synthetic": None, "hub:someone/voices": ["someone/voices"]}
    assert data.datasets == public.get(corpus, [corpus])
    assert data.license and data.tags and (data.language is None) == (corpus in public)
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "my-model"
    assert [result.metric_type for result in results] == data.metrics == ["accuracy", "recall", "f1"]
    assert [result.metric_value for result in results] == [89.2, 83.1, 84.1]
    assert {result.dataset_type for result in results} == {corpus.removeprefix("hub:")}
    assert ("as far as the dataset tells" in (tmp_path / "my-model" / "README.md").read_text()) == (
        corpus == "hub:someone/voices"
    )


def test_card_of_one_fold_has_no_spread(tmp_path):
    text = write(tmp_path, one_fold(), training=TRAINING | {"test_fold": 3})
    results = ModelCard.load(tmp_path / "my-model" / "README.md").data.eval_results
    assert results is not None
    assert [result.metric_value for result in results] == [89.2, 83.1, 84.0]
    assert "±" not in text
    assert [result.metric_name for result in results][2] == "Macro F1, %"
    assert "Folds: `paper`, test fold 3; seeds 42." in text


def test_card_calls_selection_on_the_test_fold_optimistic(tmp_path):
    text = write(tmp_path, one_fold(select_on="test"))
    assert "- **Selection: the epoch was chosen on the test fold itself. These scores are optimistic" in text
    metadata = metadata_load(tmp_path / "my-model" / "README.md")
    assert metadata is not None
    assert all("optimistic" in metric["name"] for metric in metadata["model-index"][0]["results"][0]["metrics"])
    assert "optimistic" not in write_again(tmp_path, one_fold(select_on="last"))


@pytest.mark.parametrize(
    ("select_on", "caption", "card"),
    [
        ("dev", "strength chosen on speakers held out of the training folds", "the strength was chosen on speakers"),
        ("test", "strength chosen on the test fold: optimistic", "the strength was chosen on the test fold itself"),
        ("last", "a fixed strength", "the strength was fixed. Nothing was chosen on test clips"),
    ],
)
def test_card_and_caption_of_a_linear_head_say_strength_and_not_epoch(tmp_path, select_on, caption, card):
    scores = one_fold(select_on=select_on, selected="strength")
    assert f"%; {caption}. Test speakers" in describe_scores(scores)
    text = write(tmp_path, scores)
    assert f"Selection: {card}" in text
    assert "epoch" not in text.replace("num_train_epochs", "")


def write_again(folder, scores):
    write_model_card(folder / "my-model", scores, CONFIG, TRAINING)
    return (folder / "my-model" / "README.md").read_text(encoding="utf-8")


def test_card_and_caption_state_shared_speakers(tmp_path):
    shared = SCORES | {"speakers_shared": [10, 9]}
    text = write(tmp_path, shared)
    assert "- **Speaker leakage: test speakers also in training, fold by fold: 10, 9." in text
    assert "fold by fold: 10, 9." in describe_scores(shared)
    assert "The scores are speaker-independent" not in text
    assert describe_scores(SCORES) in write_again(tmp_path, SCORES)
    assert describe_scores(SCORES).endswith("Test speakers also in training: 0.")


def test_card_does_not_call_unknown_speakers_new(tmp_path):
    text = write(tmp_path, one_fold(corpus="folder"))
    assert "- Test speakers also in training: 0, as far as the file names tell.\n" in text
    assert "speaker-independent" not in text


def test_card_without_a_test_gives_no_figure(tmp_path):
    text = write(tmp_path, None, training=TRAINING | {"corpus": "emodb", "encoder": "openai/whisper-base"})
    metadata = metadata_load(tmp_path / "my-model" / "README.md")
    assert metadata is not None
    assert "**No test was held out.**" in text
    assert "model-index" not in metadata
    assert "confusion_matrix.png" not in text and "Calibration" not in text
    assert (metadata["base_model"], metadata["language"]) == ("openai/whisper-base", "de")
    assert "\n\n\n" not in text


def test_card_holds_no_local_path(tmp_path, monkeypatch):
    local = tmp_path / "secret-home" / "my-encoder"
    local.mkdir(parents=True)
    training = TRAINING | {"resumed": str(local), "start": local, "files": [local / "a.yaml", "b.yaml"]}
    text = write(tmp_path, one_fold(encoder=str(local)), training=training)
    assert "secret-home" not in text and str(tmp_path) not in text
    assert "| encoder | `my-encoder`, frozen |" in text
    assert "| `files` | a.yaml, b.yaml |" in text
    assert "base_model" not in (metadata_load(tmp_path / "my-model" / "README.md") or {})
    # Two components look like a Hub id; the folder that exists decides
    monkeypatch.chdir(tmp_path)
    text = write_again(tmp_path, one_fold(encoder="secret-home/my-encoder"))
    assert "secret-home" not in text and "base_model" not in text


def test_card_tables_survive_odd_labels_and_missing_figures(tmp_path):
    labels = ["a|b", "two\nlines", "neutral", "absent"]
    config = SimpleNamespace(**vars(CONFIG) | {"id2label": dict(enumerate(labels)), "pooling": "mean"})
    matrix = [[3, 1, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]]
    text = write(tmp_path, one_fold(labels=labels, confusion_matrix=matrix, ece=None), config)
    assert "| a\\|b | 4 | 75.0 |" in text
    assert "| two lines | 4 | 100.0 |" in text
    assert "| absent | 0 | – |" in text
    assert "was not measured" in text
    assert "| pooling | `mean` |" in text


def test_card_states_adaptation_and_the_effect_of_the_temperature(tmp_path):
    scores = SCORES | {
        "concatenated_layers": [2, 3, 4],
        "adapted": [[True, False]],
        "temperature": [[0.5, 0.4]],
        "ece_unscaled": 0.1336,
        "unadapted": {
            "pooled": {"unweighted_accuracy": 0.6},
            "interval": {"unweighted_accuracy": [0.55, 0.651]},
            "ece": 0.034,
        },
    }
    config = SimpleNamespace(
        **vars(CONFIG)
        | dict(concatenated_layers=[2, 3, 4], logit_temperature=0.5, adapted_logit_temperature=0.25)
        | {"concatenated_layers": [2, 3, 4], "logit_temperature": 0.5, "adapted_logit_temperature": 0.25}
    )
    write_model_card(tmp_path, scores, config, TRAINING | {"adaptation": "dev: yes"})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "layers 2, 3, 4 of openai/whisper-small, qkv pooling" in text
    assert (
        "- **Test clips adapted to their speaker by the mean of all the speaker's clips, without labels in 1 of 2"
        in text
    )
    assert "unweighted accuracy is\n  60.0 (55.0 to 65.1) % (95 % interval" in text
    assert "the calibration error 3.4 %" in text
    assert "a speaker's other recordings, which helped on held-out training speakers |" in text
    assert "| calibration | logits are divided by 0.50, with adaptation by 0.25; fitted" in text
    assert "without it the error would be 13.4 %" in text
    assert "| layer | 2, 3, 4 concatenated, of 12" in text


def test_caption_is_silent_about_adaptation_where_there_was_none():
    assert "adapted" not in describe_scores(SCORES | {"adapted": [[False, False]]})


# --- metadata that the user gives ------------------------------------------------------------------------------------


def test_card_options_fill_the_metadata_of_a_folder_corpus(tmp_path):
    options = CardOptions(
        language="de,en", license="cc-by-4.0", datasets="me/voices, me/more", base_model="me/encoder"
    )
    write(tmp_path, one_fold(corpus="folder", encoder="models/whisper"), options=options)
    metadata = metadata_load(tmp_path / "my-model" / "README.md")
    assert metadata is not None
    assert (metadata["language"], metadata["license"]) == (["de", "en"], "cc-by-4.0")
    assert (metadata["datasets"], metadata["base_model"]) == (["me/voices", "me/more"], "me/encoder")
    assert "license_name" not in metadata and "license_link" not in metadata
    assert ModelCardData(**copy.deepcopy(metadata)).to_dict() == metadata


def test_card_options_win_over_the_corpus(tmp_path):
    write(tmp_path, options=CardOptions(license="mit"))
    metadata = metadata_load(tmp_path / "my-model" / "README.md")
    assert metadata is not None
    assert (metadata["license"], metadata["language"]) == ("mit", "fa")
    assert "license_name" not in metadata and "license_link" not in metadata


@pytest.mark.parametrize(
    ("changes", "training", "missing"),
    [
        ({"corpus": "folder"}, {}, ["language", "license", "datasets"]),
        ({"corpus": "folder", "encoder": "my-encoder"}, {}, ["language", "license", "datasets", "base_model"]),
        ({"corpus": "folder", "encoder": "x"}, {"from_scratch": True}, ["language", "license", "datasets"]),
        ({"corpus": "hub:me/voices"}, {}, ["language", "license"]),
        ({"corpus": "emodb"}, {}, []),
        ({"corpus": "synthetic", "encoder": "my-encoder"}, {}, []),
    ],
)
def test_write_model_card_names_the_options_that_are_missing(tmp_path, changes, training, missing):
    assert write_model_card(tmp_path, one_fold(**changes), CONFIG, TRAINING | training) == missing
    given = {"language": "de", "license": "mit", "datasets": "me/voices", "base_model": "me/encoder"}
    options = CardOptions(**{name: given[name] for name in missing})
    assert write_model_card(tmp_path, one_fold(**changes), CONFIG, TRAINING | training, options) == []


def test_describe_missing_names_every_flag_in_one_line():
    line = describe_missing(["language", "license"])
    assert "\n" not in line and "states no language, license: set --language, --license" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "German"}, "^--language German: must be language codes, such as de or de,en$"),
        ({"language": "de,Farsi"}, "^--language de,Farsi: "),
        ({"datasets": "my voices"}, "^--datasets my voices: must be Hub names"),
        ({"base_model": "./whisper"}, "^--base_model ./whisper: must be a Hub name, such as openai/whisper-base$"),
    ],
)
def test_card_options_name_a_value_that_the_hub_does_not_take(options, message):
    with pytest.raises(UserError, match=message):
        CardOptions(**options)


def test_corpora_guide_has_the_table_of_the_records():
    guide = Path(__file__).parents[2] / "model_cards" / "guides" / "corpora.md"
    assert records_table() in guide.read_text(encoding="utf-8")
