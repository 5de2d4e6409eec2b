"""Protects configurations: their form in JSON says all of them, and a wrong setting is refused."""

import dataclasses
import json

import pytest

from celo2 import InputError
from celo2.meta.config import MetaConfig, from_settings, to_settings
from celo2.meta.estimators import ES, PES
from celo2.meta.inner import InnerLoop
from celo2.meta.presets import PRESETS, preset
from celo2.rule import POLAR_EXPRESS, Spec


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_comes_back_from_json(name):
    config = preset(name)
    assert from_settings(json.loads(json.dumps(to_settings(config)))) == config
    assert to_settings(config) != to_settings(dataclasses.replace(config, seed=1))


def test_a_spec_comes_back_from_json():
    inner = InnerLoop(spec=Spec(newton_schulz_coefficients=POLAR_EXPRESS))
    config = MetaConfig(inner=inner)
    settings = to_settings(config)
    assert json.loads(json.dumps(settings)) == settings
    assert from_settings(settings) == config


def test_the_json_of_a_configuration_is_flat():
    settings = to_settings(MetaConfig(estimator=ES(sigma=0.5)))
    assert settings["estimator"] == "ES"
    assert settings["estimator.sigma"] == 0.5
    assert settings["inner.horizon"] == [100, 2000]
    assert settings["inner.spec.newton_schulz"] is True
    # As in the files of runs from before iterations could have their own.
    assert settings["inner.spec.newton_schulz_coefficients"] == [3.4445, -4.775, 2.0315]


def test_settings_change_a_configuration():
    config = from_settings(
        {
            "inner.cosine": True,
            "estimator": "PES",
            "estimator.sigma": 0.5,
            "augmentation.alpha": [1, 2],
        }
    )
    assert config.inner.cosine
    assert config.estimator == PES(sigma=0.5)
    assert config.augmentation.alpha == (1, 2)
    assert from_settings({}) == MetaConfig()


def test_an_unknown_setting_or_choice_is_refused():
    with pytest.raises(InputError, match=r"no configuration has a setting 'inner.warmth'"):
        from_settings({"inner.warmth": 1})
    with pytest.raises(InputError, match=r"inner.weighting is 'linaer'; take one of uniform, lin"):
        from_settings({"inner.weighting": "linaer"})
    with pytest.raises(InputError, match="unknown estimator 'SPSA': take one of Unrolled, PES, ES"):
        from_settings({"estimator": "SPSA"})


def test_an_unknown_preset_is_refused():
    message = "unknown preset 'slow': take one of celo2, quick, celo2-published-data, celo2-total-"
    with pytest.raises(InputError, match=message):
        preset("slow")
