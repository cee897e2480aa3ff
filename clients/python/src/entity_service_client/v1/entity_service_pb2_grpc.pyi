"""Generated: do not edit."""

from typing import Any

from .. import calls
from . import entity_service_pb2


class EntityServiceStub:
    """The persons and companies of the caller's organization, which is that of the
    API key. Every write is one database transaction: the change, its event and
    the record of its request_id are all there or none is. Every RPC answers
    within the caller's deadline, or within 10 s where the caller gives none.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def CreateEntity(self) -> calls.UnaryUnary[entity_service_pb2.CreateEntityRequest, entity_service_pb2.CreateEntityResponse]:
        """Creates an entity and its event CREATED.
        Errors: DUPLICATE_EXTERNAL_ID, DUPLICATE_TAX_ID, STATUS_REASON_REQUIRED.
        """
        ...
    @property
    def GetEntity(self) -> calls.UnaryUnary[entity_service_pb2.GetEntityRequest, entity_service_pb2.GetEntityResponse]:
        """Reads one entity, a deleted one included (except by tax id); with read_time
        as it was then.
        Errors: AMBIGUOUS_TAX_ID_LOOKUP; with read_time READ_TIME_EXPIRED, and
        WRITE_CONFLICT where a write that may be of that time goes on for too long.
        """
        ...
    @property
    def BatchGetEntities(self) -> calls.UnaryUnary[entity_service_pb2.BatchGetEntitiesRequest, entity_service_pb2.BatchGetEntitiesResponse]:
        """Reads up to 1000 entities, of one moment. One that is missing does not fail
        the others.
        """
        ...
    @property
    def ListEntities(self) -> calls.UnaryUnary[entity_service_pb2.ListEntitiesRequest, entity_service_pb2.ListEntitiesResponse]:
        """Lists entities in the order of their ids, which is about that of creation.
        An entity that is there during the whole listing appears exactly once.
        """
        ...
    @property
    def UpdateEntity(self) -> calls.UnaryUnary[entity_service_pb2.UpdateEntityRequest, entity_service_pb2.UpdateEntityResponse]:
        """Changes fields of an entity, found by any lookup, and writes one event
        ATTRIBUTE_CHANGED. A call that changes nothing is OK and writes nothing.
        With allow_missing and an external_id lookup, creates it if there is none.
        Updates of one entity never lose a merge; those of different entities do not
        wait for each other.
        Errors: IMMUTABLE_FIELD, STATUS_REASON_REQUIRED, ETAG_MISMATCH,
        ENTITY_DELETED.
        """
        ...
    @property
    def BatchUpdateEntities(self) -> calls.UnaryUnary[entity_service_pb2.BatchUpdateEntitiesRequest, entity_service_pb2.BatchUpdateEntitiesResponse]:
        """Updates up to 1000 entities in one transaction, as if UpdateEntity were called
        with each of the requests, one after the other: all of them or none. The
        first that is refused undoes those before it, and its refusal is that of the
        call: with `index`, and with its fields under "requests[index].". Requests
        that are not valid are refused before any entity is looked up.
        Entities may be named more than once, in any order; each request that changes
        or creates one writes an event of its own. Waits for entities that are being
        written, and keeps other writes of its own waiting until all is written.
        Errors: those of UpdateEntity; WRITE_CONFLICT where entities are held for too
        long, or where what the requests name moves in each of five attempts.
        """
        ...
    @property
    def ChangeExternalId(self) -> calls.UnaryUnary[entity_service_pb2.ChangeExternalIdRequest, entity_service_pb2.ChangeExternalIdResponse]:
        """Gives an entity another primary external id and rewrites the copies of the
        old one in transactions and user events, in one transaction: no reader sees
        the one without the other. The old id is freed, unless
        keep_previous_as_alias.
        Errors: DUPLICATE_EXTERNAL_ID, EXTERNAL_ID_IMMUTABLE, ETAG_MISMATCH,
        ENTITY_DELETED.
        """
        ...
    @property
    def AssignExternalId(self) -> calls.UnaryUnary[entity_service_pb2.AssignExternalIdRequest, entity_service_pb2.AssignExternalIdResponse]:
        """Gives an external id to an entity that has none. The one it has already: no
        change.
        Errors: EXTERNAL_ID_ALREADY_ASSIGNED, DUPLICATE_EXTERNAL_ID, ETAG_MISMATCH,
        ENTITY_DELETED.
        """
        ...
    @property
    def AddExternalIds(self) -> calls.UnaryUnary[entity_service_pb2.AddExternalIdsRequest, entity_service_pb2.AddExternalIdsResponse]:
        """Attaches external ids and removes none; ids that the entity has already may
        be listed again. An item designated PRIMARY becomes the primary and the old
        one stays attached; copies of it in activity rows are rewritten.
        Errors: DUPLICATE_EXTERNAL_ID (the whole list is refused), ETAG_MISMATCH,
        ENTITY_DELETED.
        """
        ...
    @property
    def ReleaseExternalId(self) -> calls.UnaryUnary[entity_service_pb2.ReleaseExternalIdRequest, entity_service_pb2.ReleaseExternalIdResponse]:
        """Detaches an alias, so that it finds nobody and another entity may take it.
        One that may be in use is refused unless `force` says otherwise. The primary
        is VALIDATION_ERROR: ChangeExternalId frees that. Of a deleted entity every
        external id may be released at once, the primary too: then its oldest alias
        becomes the primary, if it has one, and copies in activity rows follow.
        Errors: NOT_FOUND with lookup external_id when the entity does not have it,
        EXTERNAL_ID_IN_USE, EXTERNAL_ID_IMMUTABLE, ETAG_MISMATCH.
        """
        ...
    @property
    def ListExternalIdHistory(self) -> calls.UnaryUnary[entity_service_pb2.ListExternalIdHistoryRequest, entity_service_pb2.ListExternalIdHistoryResponse]:
        """Lists which entities had an external id, or which external ids an entity
        had, and when: newest first, by attached_at, what is attached now included.
        Those of an entity have the periods of all that is merged into it now, each
        under the entity that had the external id then.
        An external id that was never attached has no periods. Nothing is ever
        removed; of the time before the service kept periods it has those that the
        events still told.
        """
        ...
    @property
    def DeleteEntity(self) -> calls.UnaryUnary[entity_service_pb2.DeleteEntityRequest, entity_service_pb2.DeleteEntityResponse]:
        """Deletes an entity softly: it leaves lists and tax-id lookups, is still
        answered by GetEntity with deleted_at, and keeps its external ids, which
        stay taken until ReleaseExternalId. Deleting it again changes nothing.
        """
        ...
    @property
    def UndeleteEntity(self) -> calls.UnaryUnary[entity_service_pb2.UndeleteEntityRequest, entity_service_pb2.UndeleteEntityResponse]:
        """Brings a deleted entity back as it was. A live one: no change.
        """
        ...
    @property
    def ListEntityEvents(self) -> calls.UnaryUnary[entity_service_pb2.ListEntityEventsRequest, entity_service_pb2.ListEntityEventsResponse]:
        """Lists events, newest first: of one entity and of those that are merged into
        it, or across the organization. All
        that were ever written, or those that event_retention_days has left.
        """
        ...
    @property
    def MergeEntities(self) -> calls.UnaryUnary[entity_service_pb2.MergeEntitiesRequest, entity_service_pb2.MergeEntitiesResponse]:
        """Merges the secondary into the primary: one entity from now on, found by the
        keys of both. Where only one of them has a value that is kept, and where
        both have one, that of the primary, with these exceptions: the status is the
        more severe one (BLOCKED, REJECTED, SUSPENDED, UNDER_REVIEW, then all
        others), the risk score the higher one, trading names are united. Keys of
        entity_data, attributes and metadata count one by one; an address or any
        other object or list is taken whole. The external ids of the secondary
        become aliases. Transactions and user events stay with the entity that they
        were recorded for, and are listed with the survivor. The secondary keeps its
        values, unseen: UnmergeEntities brings them back, whatever was changed
        since. Writes an event MERGED and an event MERGE_RECEIVED, in one
        transaction. Needs neither the policy MUTABLE_WITH_REASON, since no external
        id is freed, nor unique tax ids.
        Errors: NOT_FOUND, ETAG_MISMATCH and ENTITY_DELETED with field "primary" or
        "secondary", MERGE_NOT_ALLOWED.
        """
        ...
    @property
    def UnmergeEntities(self) -> calls.UnaryUnary[entity_service_pb2.UnmergeEntitiesRequest, entity_service_pb2.UnmergeEntitiesResponse]:
        """Undoes a merge, whatever has happened since and in whichever order merges
        into one survivor are undone; of a chain the last merge first. The survivor
        keeps what was edited since, and loses what only the secondary had brought;
        the secondary has its values as they were, and its external ids, but for
        those that were freed. If the survivor was set to BLOCKED, REJECTED or
        SUSPENDED since the merge, so is the secondary, unless its status is more
        severe. Writes an event MERGE_RETURNED and an event UNMERGED.
        Errors: NOT_FOUND with lookup merge_id, MERGE_NOT_ALLOWED, ETAG_MISMATCH,
        ENTITY_DELETED when the survivor is deleted.
        """
        ...
    @property
    def ListMerges(self) -> calls.UnaryUnary[entity_service_pb2.ListMergesRequest, entity_service_pb2.ListMergesResponse]:
        """Lists merges, newest first: those of an entity and of all that were ever
        merged into it, directly or not, or those of the organization. Merges that
        were undone are listed too.
        """
        ...
    @property
    def MarkDistinct(self) -> calls.UnaryUnary[entity_service_pb2.MarkDistinctRequest, entity_service_pb2.MarkDistinctResponse]:
        """Notes that two entities are different, so that no MergeEntities merges them,
        nor what they are merged into: it is MERGE_NOT_ALLOWED with cause DISTINCT.
        The mark is between the entities that are named: where one of them was
        merged, between that one and the other, whatever is merged or undone later.
        Writes one event DISTINCT_MARKED to each of the two, or to their survivors.
        Marked already: no change.
        Errors: NOT_FOUND, ETAG_MISMATCH and ENTITY_DELETED with field "first" or
        "second"; MERGE_NOT_ALLOWED with cause SAME_ENTITY.
        """
        ...
    @property
    def LiftDistinct(self) -> calls.UnaryUnary[entity_service_pb2.LiftDistinctRequest, entity_service_pb2.LiftDistinctResponse]:
        """Lifts the mark between the two entities that are named, and writes one event
        DISTINCT_LIFTED to each of them, or to their survivors. Not marked: no
        change. Errors as MarkDistinct.
        """
        ...
    @property
    def ListDistinct(self) -> calls.UnaryUnary[entity_service_pb2.ListDistinctRequest, entity_service_pb2.ListDistinctResponse]:
        """Lists the marks of an entity, and of those that are merged into it, newest
        first; those that were lifted too.
        """
        ...
    @property
    def AnalyzeEntity(self) -> calls.UnaryUnary[entity_service_pb2.AnalyzeEntityRequest, entity_service_pb2.AnalyzeEntityResponse]:
        """Runs the rules of the entity's risk matrix over it, and stores what they say:
        an Evaluation, the risk score, and one event EVALUATED. The status is never
        touched. Where the same version of the entity was analyzed already, with the
        same version of the matrix, and on the same UTC date where a rule mentions it,
        that evaluation is answered and nothing is written. An ACTIVE rule without an
        answer makes the evaluation incomplete: it is stored, and the score stays.
        Errors: RISK_MATRIX_REQUIRED, RISK_EVALUATION_FAILED, ETAG_MISMATCH,
        ENTITY_DELETED; NOT_FOUND with lookup risk_matrix_id where the matrix is not
        there or was deleted; WRITE_CONFLICT where the entity kept changing.
        OVERLOADED when too many analyses wait.
        """
        ...
    @property
    def ListEvaluations(self) -> calls.UnaryUnary[entity_service_pb2.ListEvaluationsRequest, entity_service_pb2.ListEvaluationsResponse]:
        """Lists the evaluations of an entity and of all that is merged into it, newest
        first. Each is of the entity that was analyzed.
        """
        ...
    @property
    def WatchEntities(self) -> calls.UnaryStream[entity_service_pb2.WatchEntitiesRequest, entity_service_pb2.WatchEntitiesResponse]:
        """Sends the events of the organization as they are committed, from a position
        or from now on. Every event that is behind the position and fits the filters
        comes exactly once in a stream, those of one entity in the order of
        entity_version; events of different entities in no promised order, about
        that of time. An event comes after its commit, and never if there is none.
        Every message has the position behind it: who watches from there, at any
        time and on any process of the service, goes on where it left off. An event
        may come again after resuming from an older position: entity_version tells.

        The first message is a checkpoint, or what happened since the position; a
        checkpoint comes when all of that has come, and then whenever nothing else
        did for 5 s. No deadline is set for it.
        Errors: POSITION_INVALID, POSITION_EXPIRED, WATCH_TOO_SLOW when the caller
        reads too slowly, UNAUTHENTICATED within 5 s after the key was revoked or
        has expired, DATABASE_UNAVAILABLE when the service shuts down: watch again
        from the last position. OVERLOADED when too many watch.
        """
        ...
    @property
    def ImportEntities(self) -> calls.StreamStream[entity_service_pb2.ImportEntitiesRequest, entity_service_pb2.ImportEntitiesResponse]:
        """Creates or updates one entity per row, found by its external_id, and answers
        each row in order, in groups. A row is like UpdateEntity with allow_missing,
        together with AddExternalIds where it has external_ids: one write with one
        event. One at fault does not stop the others. Rows are written
        in groups, a transaction each: what has been answered is committed. Safe to
        run again: rows that are there already are UNCHANGED and write no event.
        Needs HTTP/2. No deadline is set for it; a stream without a row for 60 s is
        ended.
        """
        ...
    @property
    def ExportEntities(self) -> calls.UnaryStream[entity_service_pb2.ExportEntitiesRequest, entity_service_pb2.ExportEntitiesResponse]:
        """Sends the entities of the organization as they were at one moment, by id: a
        position of the log, which is in every message. All that was committed up to
        it is in the export, and nothing that was committed later, however long the
        caller takes to read it; a watch from it completes a copy. Entities that are
        merged into others are left out. Goes on where an earlier export ended, on
        any process of the service, with the position and the `after` of the last
        message that was kept. Filters hold for the entities as they were then.

        The first message has the position alone. Messages without entities say how
        far the export has come. No deadline is set for it; the caller's own ends it.
        Errors: POSITION_INVALID; POSITION_EXPIRED, also in the middle: begin anew;
        OVERLOADED when the organization has too many under way, DATABASE_UNAVAILABLE
        when the service shuts down: go on from the last message. A caller that reads
        nothing for 30 s of what was sent is reset without a reason: go on likewise.
        """
        ...
    @property
    def SuggestDuplicates(self) -> calls.UnaryUnary[entity_service_pb2.SuggestDuplicatesRequest, entity_service_pb2.SuggestDuplicatesResponse]:
        """Suggests pairs of entities that may be one, the most certain first: by the
        first of their reasons, in the order of DuplicateRule, then in an order of its
        own that stays. Each pair comes once. The rules are exact and need no tuning;
        they decide nothing, and what they find may be right or wrong. Deleted and
        merged entities, pairs of a person and a company, and pairs that MarkDistinct
        keeps from being merged are left out. What a merged entity has and its
        survivor does not is not compared.

        With a lookup every entity that shares something with that one, by id within
        a rule; for a deleted entity none, for a merged one those of its survivor.
        Without, across the organization: where more than 11 entities share a value,
        each is paired with the next 10 by id, and with one more for each mark of
        MarkDistinct that it has, up to 100.
        Finding them takes a look at every value that entities could share: a call
        looks at no more than about 200000, so that a page may be shorter than
        page_size, or empty, and have a next_page_token.
        """
        ...
    @property
    def RecheckTaxIds(self) -> calls.UnaryUnary[entity_service_pb2.RecheckTaxIdsRequest, entity_service_pb2.RecheckTaxIdsResponse]:
        """Computes anew what is stored of tax ids, for entities that were written by
        an older version: the keys that they are looked up by, and tax_id_check.
        A call looks at the next 500 entities by id and answers those that differ.
        Without `apply` it writes nothing. With it, keys are written without an event
        and leave version and etag alone; a check is an update of its own, with an
        event of the source tax_ids_recheck. Of deleted and of merged entities the keys
        alone are written. What a call has written stays, whatever becomes of the next
        one: begin again at any time.
        """
        ...
    @property
    def ListAuditCheckpoints(self) -> calls.UnaryUnary[entity_service_pb2.ListAuditCheckpointsRequest, entity_service_pb2.ListAuditCheckpointsResponse]:
        """Lists the signed checkpoints of the organization's log, in their order.
        """
        ...
    @property
    def VerifyAuditTrail(self) -> calls.UnaryStream[entity_service_pb2.VerifyAuditTrailRequest, entity_service_pb2.VerifyAuditTrailResponse]:
        """Verifies the log: that no event was changed, removed, added or moved, that the
        entities are what their events make of them, that the checkpoints are whole
        and signed, and that evaluations, and the versions of risk matrices by which
        they were made, are those that the events tell of. Findings come as they are found, and with or without them
        how far it has come, about once a second; the last message has the counts of
        all. Reads beside what goes on, whose changes are no findings, and in turn
        with other calls: a million events take some 40 s. What is verified can be
        relied on as far as checkpoints are compared that were kept elsewhere.
        No deadline is set for it; the caller's own ends it. Errors: OVERLOADED when
        the organization has two under way, or the process four,
        DATABASE_UNAVAILABLE when the service shuts down: call again.
        """
        ...

class EntityServiceAsyncStub:
    """The persons and companies of the caller's organization, which is that of the
    API key. Every write is one database transaction: the change, its event and
    the record of its request_id are all there or none is. Every RPC answers
    within the caller's deadline, or within 10 s where the caller gives none.
    """
    def __init__(self, channel: Any) -> None: ...
    @property
    def CreateEntity(self) -> calls.AsyncUnaryUnary[entity_service_pb2.CreateEntityRequest, entity_service_pb2.CreateEntityResponse]:
        """Creates an entity and its event CREATED.
        Errors: DUPLICATE_EXTERNAL_ID, DUPLICATE_TAX_ID, STATUS_REASON_REQUIRED.
        """
        ...
    @property
    def GetEntity(self) -> calls.AsyncUnaryUnary[entity_service_pb2.GetEntityRequest, entity_service_pb2.GetEntityResponse]:
        """Reads one entity, a deleted one included (except by tax id); with read_time
        as it was then.
        Errors: AMBIGUOUS_TAX_ID_LOOKUP; with read_time READ_TIME_EXPIRED, and
        WRITE_CONFLICT where a write that may be of that time goes on for too long.
        """
        ...
    @property
    def BatchGetEntities(self) -> calls.AsyncUnaryUnary[entity_service_pb2.BatchGetEntitiesRequest, entity_service_pb2.BatchGetEntitiesResponse]:
        """Reads up to 1000 entities, of one moment. One that is missing does not fail
        the others.
        """
        ...
    @property
    def ListEntities(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ListEntitiesRequest, entity_service_pb2.ListEntitiesResponse]:
        """Lists entities in the order of their ids, which is about that of creation.
        An entity that is there during the whole listing appears exactly once.
        """
        ...
    @property
    def UpdateEntity(self) -> calls.AsyncUnaryUnary[entity_service_pb2.UpdateEntityRequest, entity_service_pb2.UpdateEntityResponse]:
        """Changes fields of an entity, found by any lookup, and writes one event
        ATTRIBUTE_CHANGED. A call that changes nothing is OK and writes nothing.
        With allow_missing and an external_id lookup, creates it if there is none.
        Updates of one entity never lose a merge; those of different entities do not
        wait for each other.
        Errors: IMMUTABLE_FIELD, STATUS_REASON_REQUIRED, ETAG_MISMATCH,
        ENTITY_DELETED.
        """
        ...
    @property
    def BatchUpdateEntities(self) -> calls.AsyncUnaryUnary[entity_service_pb2.BatchUpdateEntitiesRequest, entity_service_pb2.BatchUpdateEntitiesResponse]:
        """Updates up to 1000 entities in one transaction, as if UpdateEntity were called
        with each of the requests, one after the other: all of them or none. The
        first that is refused undoes those before it, and its refusal is that of the
        call: with `index`, and with its fields under "requests[index].". Requests
        that are not valid are refused before any entity is looked up.
        Entities may be named more than once, in any order; each request that changes
        or creates one writes an event of its own. Waits for entities that are being
        written, and keeps other writes of its own waiting until all is written.
        Errors: those of UpdateEntity; WRITE_CONFLICT where entities are held for too
        long, or where what the requests name moves in each of five attempts.
        """
        ...
    @property
    def ChangeExternalId(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ChangeExternalIdRequest, entity_service_pb2.ChangeExternalIdResponse]:
        """Gives an entity another primary external id and rewrites the copies of the
        old one in transactions and user events, in one transaction: no reader sees
        the one without the other. The old id is freed, unless
        keep_previous_as_alias.
        Errors: DUPLICATE_EXTERNAL_ID, EXTERNAL_ID_IMMUTABLE, ETAG_MISMATCH,
        ENTITY_DELETED.
        """
        ...
    @property
    def AssignExternalId(self) -> calls.AsyncUnaryUnary[entity_service_pb2.AssignExternalIdRequest, entity_service_pb2.AssignExternalIdResponse]:
        """Gives an external id to an entity that has none. The one it has already: no
        change.
        Errors: EXTERNAL_ID_ALREADY_ASSIGNED, DUPLICATE_EXTERNAL_ID, ETAG_MISMATCH,
        ENTITY_DELETED.
        """
        ...
    @property
    def AddExternalIds(self) -> calls.AsyncUnaryUnary[entity_service_pb2.AddExternalIdsRequest, entity_service_pb2.AddExternalIdsResponse]:
        """Attaches external ids and removes none; ids that the entity has already may
        be listed again. An item designated PRIMARY becomes the primary and the old
        one stays attached; copies of it in activity rows are rewritten.
        Errors: DUPLICATE_EXTERNAL_ID (the whole list is refused), ETAG_MISMATCH,
        ENTITY_DELETED.
        """
        ...
    @property
    def ReleaseExternalId(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ReleaseExternalIdRequest, entity_service_pb2.ReleaseExternalIdResponse]:
        """Detaches an alias, so that it finds nobody and another entity may take it.
        One that may be in use is refused unless `force` says otherwise. The primary
        is VALIDATION_ERROR: ChangeExternalId frees that. Of a deleted entity every
        external id may be released at once, the primary too: then its oldest alias
        becomes the primary, if it has one, and copies in activity rows follow.
        Errors: NOT_FOUND with lookup external_id when the entity does not have it,
        EXTERNAL_ID_IN_USE, EXTERNAL_ID_IMMUTABLE, ETAG_MISMATCH.
        """
        ...
    @property
    def ListExternalIdHistory(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ListExternalIdHistoryRequest, entity_service_pb2.ListExternalIdHistoryResponse]:
        """Lists which entities had an external id, or which external ids an entity
        had, and when: newest first, by attached_at, what is attached now included.
        Those of an entity have the periods of all that is merged into it now, each
        under the entity that had the external id then.
        An external id that was never attached has no periods. Nothing is ever
        removed; of the time before the service kept periods it has those that the
        events still told.
        """
        ...
    @property
    def DeleteEntity(self) -> calls.AsyncUnaryUnary[entity_service_pb2.DeleteEntityRequest, entity_service_pb2.DeleteEntityResponse]:
        """Deletes an entity softly: it leaves lists and tax-id lookups, is still
        answered by GetEntity with deleted_at, and keeps its external ids, which
        stay taken until ReleaseExternalId. Deleting it again changes nothing.
        """
        ...
    @property
    def UndeleteEntity(self) -> calls.AsyncUnaryUnary[entity_service_pb2.UndeleteEntityRequest, entity_service_pb2.UndeleteEntityResponse]:
        """Brings a deleted entity back as it was. A live one: no change.
        """
        ...
    @property
    def ListEntityEvents(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ListEntityEventsRequest, entity_service_pb2.ListEntityEventsResponse]:
        """Lists events, newest first: of one entity and of those that are merged into
        it, or across the organization. All
        that were ever written, or those that event_retention_days has left.
        """
        ...
    @property
    def MergeEntities(self) -> calls.AsyncUnaryUnary[entity_service_pb2.MergeEntitiesRequest, entity_service_pb2.MergeEntitiesResponse]:
        """Merges the secondary into the primary: one entity from now on, found by the
        keys of both. Where only one of them has a value that is kept, and where
        both have one, that of the primary, with these exceptions: the status is the
        more severe one (BLOCKED, REJECTED, SUSPENDED, UNDER_REVIEW, then all
        others), the risk score the higher one, trading names are united. Keys of
        entity_data, attributes and metadata count one by one; an address or any
        other object or list is taken whole. The external ids of the secondary
        become aliases. Transactions and user events stay with the entity that they
        were recorded for, and are listed with the survivor. The secondary keeps its
        values, unseen: UnmergeEntities brings them back, whatever was changed
        since. Writes an event MERGED and an event MERGE_RECEIVED, in one
        transaction. Needs neither the policy MUTABLE_WITH_REASON, since no external
        id is freed, nor unique tax ids.
        Errors: NOT_FOUND, ETAG_MISMATCH and ENTITY_DELETED with field "primary" or
        "secondary", MERGE_NOT_ALLOWED.
        """
        ...
    @property
    def UnmergeEntities(self) -> calls.AsyncUnaryUnary[entity_service_pb2.UnmergeEntitiesRequest, entity_service_pb2.UnmergeEntitiesResponse]:
        """Undoes a merge, whatever has happened since and in whichever order merges
        into one survivor are undone; of a chain the last merge first. The survivor
        keeps what was edited since, and loses what only the secondary had brought;
        the secondary has its values as they were, and its external ids, but for
        those that were freed. If the survivor was set to BLOCKED, REJECTED or
        SUSPENDED since the merge, so is the secondary, unless its status is more
        severe. Writes an event MERGE_RETURNED and an event UNMERGED.
        Errors: NOT_FOUND with lookup merge_id, MERGE_NOT_ALLOWED, ETAG_MISMATCH,
        ENTITY_DELETED when the survivor is deleted.
        """
        ...
    @property
    def ListMerges(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ListMergesRequest, entity_service_pb2.ListMergesResponse]:
        """Lists merges, newest first: those of an entity and of all that were ever
        merged into it, directly or not, or those of the organization. Merges that
        were undone are listed too.
        """
        ...
    @property
    def MarkDistinct(self) -> calls.AsyncUnaryUnary[entity_service_pb2.MarkDistinctRequest, entity_service_pb2.MarkDistinctResponse]:
        """Notes that two entities are different, so that no MergeEntities merges them,
        nor what they are merged into: it is MERGE_NOT_ALLOWED with cause DISTINCT.
        The mark is between the entities that are named: where one of them was
        merged, between that one and the other, whatever is merged or undone later.
        Writes one event DISTINCT_MARKED to each of the two, or to their survivors.
        Marked already: no change.
        Errors: NOT_FOUND, ETAG_MISMATCH and ENTITY_DELETED with field "first" or
        "second"; MERGE_NOT_ALLOWED with cause SAME_ENTITY.
        """
        ...
    @property
    def LiftDistinct(self) -> calls.AsyncUnaryUnary[entity_service_pb2.LiftDistinctRequest, entity_service_pb2.LiftDistinctResponse]:
        """Lifts the mark between the two entities that are named, and writes one event
        DISTINCT_LIFTED to each of them, or to their survivors. Not marked: no
        change. Errors as MarkDistinct.
        """
        ...
    @property
    def ListDistinct(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ListDistinctRequest, entity_service_pb2.ListDistinctResponse]:
        """Lists the marks of an entity, and of those that are merged into it, newest
        first; those that were lifted too.
        """
        ...
    @property
    def AnalyzeEntity(self) -> calls.AsyncUnaryUnary[entity_service_pb2.AnalyzeEntityRequest, entity_service_pb2.AnalyzeEntityResponse]:
        """Runs the rules of the entity's risk matrix over it, and stores what they say:
        an Evaluation, the risk score, and one event EVALUATED. The status is never
        touched. Where the same version of the entity was analyzed already, with the
        same version of the matrix, and on the same UTC date where a rule mentions it,
        that evaluation is answered and nothing is written. An ACTIVE rule without an
        answer makes the evaluation incomplete: it is stored, and the score stays.
        Errors: RISK_MATRIX_REQUIRED, RISK_EVALUATION_FAILED, ETAG_MISMATCH,
        ENTITY_DELETED; NOT_FOUND with lookup risk_matrix_id where the matrix is not
        there or was deleted; WRITE_CONFLICT where the entity kept changing.
        OVERLOADED when too many analyses wait.
        """
        ...
    @property
    def ListEvaluations(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ListEvaluationsRequest, entity_service_pb2.ListEvaluationsResponse]:
        """Lists the evaluations of an entity and of all that is merged into it, newest
        first. Each is of the entity that was analyzed.
        """
        ...
    @property
    def WatchEntities(self) -> calls.AsyncUnaryStream[entity_service_pb2.WatchEntitiesRequest, entity_service_pb2.WatchEntitiesResponse]:
        """Sends the events of the organization as they are committed, from a position
        or from now on. Every event that is behind the position and fits the filters
        comes exactly once in a stream, those of one entity in the order of
        entity_version; events of different entities in no promised order, about
        that of time. An event comes after its commit, and never if there is none.
        Every message has the position behind it: who watches from there, at any
        time and on any process of the service, goes on where it left off. An event
        may come again after resuming from an older position: entity_version tells.

        The first message is a checkpoint, or what happened since the position; a
        checkpoint comes when all of that has come, and then whenever nothing else
        did for 5 s. No deadline is set for it.
        Errors: POSITION_INVALID, POSITION_EXPIRED, WATCH_TOO_SLOW when the caller
        reads too slowly, UNAUTHENTICATED within 5 s after the key was revoked or
        has expired, DATABASE_UNAVAILABLE when the service shuts down: watch again
        from the last position. OVERLOADED when too many watch.
        """
        ...
    @property
    def ImportEntities(self) -> calls.AsyncStreamStream[entity_service_pb2.ImportEntitiesRequest, entity_service_pb2.ImportEntitiesResponse]:
        """Creates or updates one entity per row, found by its external_id, and answers
        each row in order, in groups. A row is like UpdateEntity with allow_missing,
        together with AddExternalIds where it has external_ids: one write with one
        event. One at fault does not stop the others. Rows are written
        in groups, a transaction each: what has been answered is committed. Safe to
        run again: rows that are there already are UNCHANGED and write no event.
        Needs HTTP/2. No deadline is set for it; a stream without a row for 60 s is
        ended.
        """
        ...
    @property
    def ExportEntities(self) -> calls.AsyncUnaryStream[entity_service_pb2.ExportEntitiesRequest, entity_service_pb2.ExportEntitiesResponse]:
        """Sends the entities of the organization as they were at one moment, by id: a
        position of the log, which is in every message. All that was committed up to
        it is in the export, and nothing that was committed later, however long the
        caller takes to read it; a watch from it completes a copy. Entities that are
        merged into others are left out. Goes on where an earlier export ended, on
        any process of the service, with the position and the `after` of the last
        message that was kept. Filters hold for the entities as they were then.

        The first message has the position alone. Messages without entities say how
        far the export has come. No deadline is set for it; the caller's own ends it.
        Errors: POSITION_INVALID; POSITION_EXPIRED, also in the middle: begin anew;
        OVERLOADED when the organization has too many under way, DATABASE_UNAVAILABLE
        when the service shuts down: go on from the last message. A caller that reads
        nothing for 30 s of what was sent is reset without a reason: go on likewise.
        """
        ...
    @property
    def SuggestDuplicates(self) -> calls.AsyncUnaryUnary[entity_service_pb2.SuggestDuplicatesRequest, entity_service_pb2.SuggestDuplicatesResponse]:
        """Suggests pairs of entities that may be one, the most certain first: by the
        first of their reasons, in the order of DuplicateRule, then in an order of its
        own that stays. Each pair comes once. The rules are exact and need no tuning;
        they decide nothing, and what they find may be right or wrong. Deleted and
        merged entities, pairs of a person and a company, and pairs that MarkDistinct
        keeps from being merged are left out. What a merged entity has and its
        survivor does not is not compared.

        With a lookup every entity that shares something with that one, by id within
        a rule; for a deleted entity none, for a merged one those of its survivor.
        Without, across the organization: where more than 11 entities share a value,
        each is paired with the next 10 by id, and with one more for each mark of
        MarkDistinct that it has, up to 100.
        Finding them takes a look at every value that entities could share: a call
        looks at no more than about 200000, so that a page may be shorter than
        page_size, or empty, and have a next_page_token.
        """
        ...
    @property
    def RecheckTaxIds(self) -> calls.AsyncUnaryUnary[entity_service_pb2.RecheckTaxIdsRequest, entity_service_pb2.RecheckTaxIdsResponse]:
        """Computes anew what is stored of tax ids, for entities that were written by
        an older version: the keys that they are looked up by, and tax_id_check.
        A call looks at the next 500 entities by id and answers those that differ.
        Without `apply` it writes nothing. With it, keys are written without an event
        and leave version and etag alone; a check is an update of its own, with an
        event of the source tax_ids_recheck. Of deleted and of merged entities the keys
        alone are written. What a call has written stays, whatever becomes of the next
        one: begin again at any time.
        """
        ...
    @property
    def ListAuditCheckpoints(self) -> calls.AsyncUnaryUnary[entity_service_pb2.ListAuditCheckpointsRequest, entity_service_pb2.ListAuditCheckpointsResponse]:
        """Lists the signed checkpoints of the organization's log, in their order.
        """
        ...
    @property
    def VerifyAuditTrail(self) -> calls.AsyncUnaryStream[entity_service_pb2.VerifyAuditTrailRequest, entity_service_pb2.VerifyAuditTrailResponse]:
        """Verifies the log: that no event was changed, removed, added or moved, that the
        entities are what their events make of them, that the checkpoints are whole
        and signed, and that evaluations, and the versions of risk matrices by which
        they were made, are those that the events tell of. Findings come as they are found, and with or without them
        how far it has come, about once a second; the last message has the counts of
        all. Reads beside what goes on, whose changes are no findings, and in turn
        with other calls: a million events take some 40 s. What is verified can be
        relied on as far as checkpoints are compared that were kept elsewhere.
        No deadline is set for it; the caller's own ends it. Errors: OVERLOADED when
        the organization has two under way, or the process four,
        DATABASE_UNAVAILABLE when the service shuts down: call again.
        """
        ...
