"""Options are declared once: what resumes, what a card shows and what the model takes derive from the declarations."""

import pytest

from whisper_emotion.cli import parse_arguments
from whisper_emotion.configuration_whisper_emotion import ENCODER_CONTEXTS
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.options import (
    CARD_TRAINING,
    RESULT_TRAINING,
    CorpusOptions,
    ModelOptions,
    ProtocolOptions,
    hyper_parameters,
    settings,
)
from whisper_emotion.pooling_whisper_emotion import POOLING_CLASSES

ALL = (CorpusOptions, ProtocolOptions, ModelOptions, EmotionTrainingArguments)
NEEDED = ["--corpus", "emodb", "--corpus_dir", "d", "--encoder", "e", "--output_dir", "o"]


def parse(*flags):
    return parse_arguments(*ALL, argv=[*NEEDED, *flags])


def test_defaults_of_training_are_the_papers():
    training = parse()[-1]
    assert (training.learning_rate, training.num_train_epochs, training.per_device_train_batch_size) == (1e-3, 30, 16)
    assert (training.lr_scheduler_type, training.warmup_steps, training.seed) == ("cosine", 0.1, 42)
    assert training.report_to == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--output_dir", "elsewhere"],
        ["--store_dir", "s"],
        ["--disable_tqdm"],
        ["--log_level", "debug"],
        ["--logging_steps", "3"],
        ["--save_steps", "3"],
        ["--dataloader_num_workers", "2"],
        ["--run_name", "x"],
    ],
)
def test_settings_ignore_where_and_how_a_run_reports(flags):
    assert settings(*parse(*flags)) == settings(*parse())


@pytest.mark.parametrize(
    "flags",
    [
        ["--classes", "a,b"],
        ["--freeze_encoder", "false"],
        ["--class_weights", "balanced"],
        ["--pooling", "qkv"],
        ["--learning_rate", "0.5"],
        ["--adam_beta2", "0.9"],
        ["--label_smoothing_factor", "0.1"],
        ["--optim", "sgd"],
        ["--max_steps", "3"],
        ["--seed", "1"],
    ],
)
def test_settings_differ_where_results_do(flags):
    assert settings(*parse(*flags)) != settings(*parse())


def test_training_options_that_influence_results_exist():
    known = {"warmup_ratio", "group_by_length"}  # which only older versions of transformers have
    assert {name for name in RESULT_TRAINING if not hasattr(parse()[-1], name)} <= known
    assert set(CARD_TRAINING) <= set(RESULT_TRAINING)


def test_hyper_parameters_are_the_options_of_the_card():
    corpus, protocol, model, training = parse("--class_weights", "balanced", "--optim", "sgd")
    assert hyper_parameters(protocol) == {
        "encoder": "e", "from_scratch": False, "freeze_encoder": True, "encoder_dtype": "float32",
        "class_weights": "balanced", "select_on": "dev", "refit": True,
    }  # fmt: skip
    assert hyper_parameters(corpus) == {"corpus": "emodb"}
    assert hyper_parameters(model) == {}
    assert hyper_parameters(training)["optim"] == "sgd"
    assert tuple(hyper_parameters(training)) == CARD_TRAINING


def test_model_options_override_only_what_is_given():
    model = parse("--encoder_layer", "-3", "--mask_padding", "false", "--concatenated_layers", "2,3,4")[2]
    assert model.overrides() == {"encoder_layer": -3, "mask_padding": False, "concatenated_layers": [2, 3, 4]}
    with pytest.raises(UserError, match="--concatenated_layers 2,x: give comma-separated layers"):
        parse("--concatenated_layers", "2,x")[2].overrides()


@pytest.mark.parametrize(
    ("flags", "weights"),
    [([], None), (["--class_weights", "balanced"], "balanced"), (["--class_weights", "1,2.5"], [1, 2.5])],
)
def test_class_weights_are_balanced_or_numbers(flags, weights):
    assert parse(*flags)[1].weights() == weights


def test_class_weights_of_another_kind_are_refused():
    with pytest.raises(UserError, match="--class_weights even: give balanced, none or one number per class"):
        parse("--class_weights", "even")[1].weights()


@pytest.mark.parametrize(("name", "values"), [("pooling", POOLING_CLASSES), ("encoder_context", ENCODER_CONTEXTS)])
def test_help_of_model_options_names_all_values(name, values):
    help = ModelOptions.__dataclass_fields__[name].metadata["help"]
    assert all(value in help for value in values)
