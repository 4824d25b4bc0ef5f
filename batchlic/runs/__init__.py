"""Operations on a run and its folder."""
